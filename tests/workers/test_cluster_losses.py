"""Processes of a cluster die at random: the run equals that of one machine all the same."""

import random
import sys
import threading
import time
from pathlib import Path

import pytest
from builders import cases_in
from dask_clusters import StartedCluster, local_cluster
from fake_interpreters import logged, wait_until, write_worker

from peft_regress.baselines.run_adapters import adapters_of_run
from peft_regress.runs.journal import journal_of
from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def measure(command, tmp_path, monkeypatch):
    """Call the command and return the exit code and what it says."""

    def call(on, *words, save, python, cases="*"):
        base = ["--cases", cases, "--save", save, "--baselines", str(ROOT / "baselines")]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", python)
            code, _, err = command("measure", "--on", on, "--time-limit", 60, *base, *words)
        return code, err

    return call


@pytest.mark.nightly
def test_killed_workers_change_nothing_in_the_run(tmp_path, measure, monkeypatch):
    # These cases are not to blame.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1000")
    python = write_worker(tmp_path / "python", pause=0.25)
    assert measure("local", "--jobs", 2, save=tmp_path / "here.json", python=python)[0] == 0
    expected = read_run_file(tmp_path / "here.json").run
    draw, left = random.Random(4), [100]

    def strike(cluster):
        while left[0]:
            time.sleep(draw.uniform(0.5, 2.0))
            cluster.replace_worker(draw)
            left[0] -= 1

    with StartedCluster(tmp_path / "cluster", python, workers=4) as cluster:
        thread = threading.Thread(target=strike, args=(cluster,), daemon=True)
        thread.start()
        number = 0
        while left[0]:
            number += 1
            save = tmp_path / f"run{number}.json"
            code, err = measure(cluster.address, save=save, python=python)
            assert code == 0, err
            assert read_run_file(save).run == expected
        thread.join()


@pytest.mark.slow
def test_a_killed_scheduler_loses_nothing_and_nothing_is_measured_twice(tmp_path, measure):
    python = write_worker(tmp_path / "python", pause=0.25)
    glob = "shift/*/resnet18"
    here = tmp_path / "here.json"
    assert measure("local", "--jobs", 2, save=here, python=python, cases=glob)[0] == 0
    expected = read_run_file(here).run
    begun = len(logged(python, "measure"))
    save = tmp_path / "run.json"

    def strike(cluster):
        wait_until(lambda: journal_of(save).exists() and len(cases_in(journal_of(save))))
        cluster.scheduler.kill()

    with StartedCluster(tmp_path / "one", python, workers=2) as cluster:
        thread = threading.Thread(target=strike, args=(cluster,))
        thread.start()
        code, err = measure(cluster.address, save=save, python=python, cases=glob)
        thread.join()
    assert code == 3
    assert f"{cluster.address}: the Dask scheduler has gone" in err
    kept = cases_in(journal_of(save))
    assert kept
    before = [request["case"] for _, request in logged(python, "measure")[begun:]]
    with StartedCluster(tmp_path / "two", python, workers=2) as cluster:
        resume = ["--resume", save]
        code, err = measure(cluster.address, *resume, save=save, python=python, cases=glob)
    assert code == 0, err
    assert read_run_file(save).run == expected
    again = [request["case"] for _, request in logged(python, "measure")[begun:]][len(before) :]
    assert set(again) == expected.cases.keys() - kept


@pytest.mark.nightly
def test_a_real_run_equals_one_of_this_machine_with_its_adapters(tmp_path, command):
    runs = []
    words = ["--cases", "shift/lora-r1/shufflenet_v2_x0_5", "--baselines", ROOT / "baselines"]
    with local_cluster(tmp_path, workers=1) as cluster:
        for on in ("local", cluster.scheduler_address):
            save = tmp_path / str(len(runs)) / "run.json"
            code, _, err = command("measure", "--on", on, "--save", save, *words)
            assert code == 0, err
            kept = adapters_of_run(save)
            files = {path.relative_to(kept): path.read_bytes() for path in kept.rglob("*.*")}
            runs.append((read_run_file(save).run, files))
    here, there = runs
    assert here == there
    assert len(here[1]) >= 2
