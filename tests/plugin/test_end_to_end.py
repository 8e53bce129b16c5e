"""A real regression of a real release is caught, and what did not change is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SELECT = "(dora-r4 or lora-r4) and shift and resnet18"

# `peft-regress upgrade` measures a real release in the slow tests; these repeat it through pytest.
with_releases = pytest.mark.nightly


def bench(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider"]
    # A worker of pytest-xdist tells the runs inside it that they are workers too.
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST_")}
    return subprocess.run(
        [*command, "--benchmark-quiet", *arguments],
        cwd=ROOT, env=outside | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def compare(old, new):
    command = [sys.executable, "-m", "peft_regress", "compare", str(old), str(new)]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, check=False)
    verdict = json.loads(done.stdout)
    assert done.returncode == verdict["exit_code"]
    return verdict


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same two cases with peft 0.15.2 and with 0.14.0 in front of the path."""
    folder = tmp_path_factory.mktemp("releases")
    made = {}
    for version in ("0.15.2", "0.14.0"):
        front = folder / version
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*install, "--target", str(front), f"peft=={version}"], check=True)
        file = folder / f"{version}.json"
        baseline = [] if not made else [f"--regress-baseline={made['0.15.2'][0]}"]
        done = bench("-k", SELECT, f"--regress-save={file}", *baseline, PYTHONPATH=str(front))
        made[version] = (file, done)
    return made


@with_releases
def test_dora_running_its_base_convolution_twice_fails_the_run(runs):
    done = runs["0.14.0"][1]
    assert done.returncode == 1, done.stdout + done.stderr
    assert "shift/dora-r4/resnet18: regressed" in done.stdout
    assert "forward_flops: 3.854 GFLOP -> 7.481 GFLOP  +94.12 % (bound 0 %)" in done.stdout
    assert "layer1.0.conv1" in done.stdout
    assert "environment: peft 0.15.2 -> 0.14.0" in done.stdout


@with_releases
def test_explain_says_that_the_base_convolution_runs_once_more_in_every_layer(runs):
    command = [sys.executable, "-m", "peft_regress", "explain", "--format", "json"]
    files = [str(runs[version][0]) for version in ("0.15.2", "0.14.0")]
    done = subprocess.run(
        [*command, *files, "shift/dora-r4/resnet18"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    explained = json.loads(done.stdout)
    assert explained["environment"] == [{"package": "peft", "old": "0.15.2", "new": "0.14.0"}]
    changes = {change["metric"]: change for change in explained["metrics"]}
    for name, operator, count in (
        ("forward_flops", "aten.convolution", 20),
        # The first convolution needs no gradient of the image.
        ("backward_flops_b32", "aten.convolution_backward", 19),
    ):
        (split,) = changes[name]["breakdowns"]
        assert split["sum"] == changes[name]["change"]
        assert [layer["base_runs"] for layer in split["layers"]] == [1] * count
        assert {layer["what"] for layer in split["layers"]} == {operator}


@with_releases
def test_only_flops_see_it_and_lora_is_identical(runs):
    verdict = compare(runs["0.15.2"][0], runs["0.14.0"][0])
    assert verdict["exit_code"] == 1
    cases = {case["id"]: case for case in verdict["cases"]}
    lora = cases["shift/lora-r4/resnet18"]
    # Both releases leave something behind when they delete an adapter.
    moved = {r["metric"] for r in lora["reasons"] if r["verdict"] != "known_defect"}
    assert moved <= {"step_seconds"}
    regressed = {
        reason["metric"].removesuffix("_b32")
        for reason in cases["shift/dora-r4/resnet18"]["reasons"]
        if reason["verdict"] == "regressed"
    }
    assert {"forward_flops", "backward_flops"} <= regressed
    assert regressed <= {
        "forward_flops",
        "backward_flops",
        "aten_ops",
        "inference_flops",
        "peak_bytes",
        "peak_temp_bytes",
        "peak_activation_bytes",
        "category_sum_bytes",
        "step_seconds",
    }


@with_releases
def test_the_fix_is_an_improvement_and_no_failure(runs):
    verdict = compare(runs["0.14.0"][0], runs["0.15.2"][0])
    cases = {case["id"]: case["verdict"] for case in verdict["cases"]}
    assert cases["shift/dora-r4/resnet18"] == "improved"
    # Both runs are partial, which is not a pass either.
    assert verdict["exit_code"] == 3


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "avx2"},
        pytest.param({"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}, marks=pytest.mark.nightly),
    ],
    ids=["avx2", "two-threads"],
)
@pytest.mark.parametrize(
    "select",
    [
        pytest.param("mobilenet_v3_small and shift and (head or lora-r4)", marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small and (full or head or r4)", marks=pytest.mark.nightly),
    ],
    ids=["two-cases", "every-method"],
)
def test_the_stored_baseline_reproduces_elsewhere(tmp_path, select, environment):
    done = bench("-k", select, f"--regress-save={tmp_path / 'run.json'}", **environment)
    assert done.returncode == 0, done.stdout
