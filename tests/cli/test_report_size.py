"""What a page of many cases takes: memory, time, and reads."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from builders import forward_ledger, make_record, write_entry

from peft_regress.runs import run_file

# Python's fork gives a child the peak of its parent, so the parent must be small.
LAUNCHER = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3]))
"""
COUNTER = """
import time
begun = time.process_time()
sum(i * i for i in range(10**7))
print(time.process_time() - begun)
"""
USUAL_COUNT = 0.5
"""Seconds that an idle core of 2020 needs for `COUNTER`."""


@pytest.mark.slow
def test_a_page_of_2000_cases_takes_15_seconds_and_300_megabytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from long_storage import make_storage

    make_storage(tmp_path / "baselines", entries=3, copies=20, entries_a_release=1, later_part=10)
    page = [sys.executable, "-m", "peft_regress", "report", "--html", "page.html"]
    words = [sys.executable, "-S", "-c", LAUNCHER, *page]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True, text=True)
    code, seconds, megabytes = json.loads(done.stdout)
    counted = subprocess.run(
        [sys.executable, "-c", COUNTER], capture_output=True, check=True, text=True
    )
    slowness = max(1, float(counted.stdout) / USUAL_COUNT)
    assert code == 0
    assert seconds / slowness < 15
    assert megabytes < 300


def test_a_page_reads_each_entry_once_and_judges_each_case_once_a_pair(
    command, tmp_path, monkeypatch
):
    ledgers = [forward_ledger({"a": {"aten.mm": work}}) for work in (5, 7)]
    for number in (1, 2):
        write_entry(
            tmp_path / "baselines",
            number,
            *(
                make_record(f"{task}/{method}-r4/resnet18", ledger=ledger)
                for task in ("one", "two", "three")
                for method, ledger in zip(("lora", "dora"), ledgers, strict=True)
            ),
        )
    calls = Counter()

    def count(owner, name):
        real = getattr(owner, name)

        def call(*arguments, **options):
            calls[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    count(run_file, "_parse")
    count(run_file, "read_ledger")
    count(sys.modules["peft_regress.gate.judge"], "judge_case")
    monkeypatch.chdir(tmp_path)
    code, _, err = command("report", "--html", "page.html")
    assert (code, err) == (0, "")
    # Both directions, and the newest by the one before; one reading of the ledger for each method.
    assert calls == {"_parse": 2, "judge_case": 3 * 6, "read_ledger": 2}
