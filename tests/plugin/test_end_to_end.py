"""A real regression of a real release is caught, and what did not change is left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SELECT = "(dora-r4 or lora-r4) and shift and resnet18"


def bench(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider"]
    # A worker of pytest-xdist tells the runs inside it that they are workers too.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST_")}
    return subprocess.run(
        [*command, "--benchmark-quiet", *arguments],
        cwd=ROOT, env=outside | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.nightly
def test_dora_running_its_base_convolution_twice_fails_the_run(tmp_path):
    """The same two cases with peft 0.15.2 and with 0.14.0 in front of the path."""
    base = tmp_path / "0.15.2.json"
    for version, baseline in (("0.15.2", ()), ("0.14.0", (f"--regress-baseline={base}",))):
        front = tmp_path / version
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*install, "--target", str(front), f"peft=={version}"], check=True)
        saving = f"--regress-save={tmp_path / version}.json"
        done = bench("-k", SELECT, saving, *baseline, PYTHONPATH=str(front))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "shift/dora-r4/resnet18: regressed" in done.stdout
    assert "shift/lora-r4/resnet18: regressed" not in done.stdout
    assert "forward_flops: 3.854 GFLOP -> 7.481 GFLOP  +94.12 % (bound 0 %)" in done.stdout
    assert "layer1.0.conv1" in done.stdout
    assert "environment: peft 0.15.2 -> 0.14.0" in done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize(
    "environment",
    [{"ATEN_CPU_CAPABILITY": "avx2"}, {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}],
    ids=["avx2", "two-threads"],
)
def test_the_stored_baseline_reproduces_elsewhere(tmp_path, environment):
    select = "mobilenet_v3_small and (full or head or r4)"
    done = bench("-k", select, f"--regress-save={tmp_path / 'run.json'}", **environment)
    assert done.returncode == 0, done.stdout
