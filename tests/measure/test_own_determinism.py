"""A case of one's own gives the same record in any process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, msgspec, peft, torch
from own_training import fine_tune, measured
torch.set_num_threads({threads})
adapter = peft.LoraConfig(r=2, target_modules=["6", "0"], lora_dropout=0.1)
print(json.dumps(msgspec.to_builtins(measured(fine_tune(adapter, also_train=["8"])))))
"""


def started(threads, **variables):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(threads=threads)],
        env={**os.environ, "PYTHONPATH": str(TESTS), **variables},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.nightly
def test_another_process_hash_seed_thread_count_and_processor_change_nothing_that_is_exact():
    processes = (
        started(1, PYTHONHASHSEED="1"),
        started(2, PYTHONHASHSEED="2", ATEN_CPU_CAPABILITY="avx2"),
    )
    one, other = (json.loads(process.communicate()[0].splitlines()[-1]) for process in processes)
    for same in ("definition", "trained", "invariants", "status"):
        assert other[same] == one[same]
    for key, weight in one["inputs"]["weights"].items():
        there = other["inputs"]["weights"][key]
        assert there["norm"] == pytest.approx(weight["norm"], rel=1e-5, abs=1e-7)
    exact = {name for name, metric in one["metrics"].items() if metric["kind"] == "exact"}
    assert len(exact) > 5
    assert [n for n in exact if other["metrics"][n] != one["metrics"][n]] == []
