"""How fast and how lean the tool itself is: `tox run -e selfbench`, on an idle machine.

What is compared takes turns in one session, so most promises are ratios. `-k` chooses some, `-rA`
shows what those that hold have printed.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from long_storage import make_storage

from peft_regress.runs.run_file import write_run_file

ROOT = Path(__file__).resolve().parents[2]
PARTS = Path(__file__).with_name("parts.py")
PAIRS = 3

# Python's fork gives a child the peak of its parent, so the parent must be small.
LAUNCHER = """
import resource, subprocess, sys, time
begun = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.monotonic() - begun
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3, done.returncode)
"""


def measured(part, *arguments):
    """Run a part in a new process, so that it shares no memory and no caches."""
    command = [sys.executable, str(PARTS), part, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def launched(*words):
    """Run a command; return its seconds, and the megabytes of its largest process."""
    command = [sys.executable, "-S", "-c", LAUNCHER, sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, megabytes, code = map(float, done.stdout.split())
    assert code == 0
    return seconds, megabytes


@pytest.mark.parametrize(
    ("pairing", "than_real"), [(("full", "0", "resnet18"), 10), (("lora", "4", "mobilenet_v2"), 5)]
)
def test_a_profile_is_faster_than_measuring_and_as_fast_at_any_batch(pairing, than_real):
    """Of a step at batch 32: the same recording on real tensors."""
    found = measured("profile", *pairing)
    real = found["real_seconds"] / found["fake_seconds"]
    print(f"{real:.0f} times as fast; {found['megabytes']:.0f} MB")
    assert real >= than_real
    assert found["batch_ratio"] <= 1.1
    assert found["megabytes"] < 500


@pytest.mark.parametrize("case", ["shift/lora-r4/mobilenet_v3_small", "shift/full/resnet18"])
def test_the_harness_adds_at_most_5_percent_to_a_bare_loop(case):
    """Without the profile and the signals, which have promises of their own."""
    extra = measured("harness", case)["extra"]
    print(f"{extra:+.1%}")
    assert extra <= 0.05


def test_signals_add_at_most_a_quarter():
    found = measured("signals", "mobilenet_v3_small")
    share = found["signals"] / (found["all"] - found["signals"])
    print(f"{share:+.1%}")
    assert share <= 0.25


def test_cost_takes_little_more_than_its_imports_and_one_profile():
    pairing = ["--architecture", "resnet18", "--method", "lora", "--rank", "4"]
    ratios = []
    for _ in range(PAIRS):
        ours, _ = launched("-m", "peft_regress", "cost", *pairing)
        needed, _ = launched(PARTS, "needed")
        ratios.append(ours / needed)
    print(f"{statistics.median(ratios):.2f} times")
    assert statistics.median(ratios) <= 1.5


def test_choose_takes_at_most_1_3_times_a_profile_of_each_candidate():
    """With the largest batch of each, which comes out of the same profile."""
    found = measured("choose", "shufflenet_v2_x0_5")
    ratio = found["choose"] / found["singles"]
    print(f"{ratio:.2f} times")
    assert ratio <= 1.3


def test_compare_of_two_runs_is_quick():
    entry = max((ROOT / "baselines").glob("*/[0-9]*.json"))
    seconds = min(launched("-m", "peft_regress", "compare", entry, entry)[0] for _ in range(PAIRS))
    print(f"{seconds:.2f} s")
    assert seconds < 0.5


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    run = make_storage(folder / "storage", entries=100)
    write_run_file(folder / "run.json", run.run, run.document)
    return folder / "storage", folder / "run.json"


def test_a_storage_of_100_entries_is_read_quickly(storage):
    root, run = storage
    seconds, megabytes = launched("-m", "peft_regress", "compare", root, run, "--stored-only")
    print(f"compare: {seconds:.1f} s, {megabytes:.0f} MB")
    assert seconds < 5
    assert megabytes < 150
