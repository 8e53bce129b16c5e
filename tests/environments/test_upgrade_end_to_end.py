"""Real releases of peft through the commands, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LORA, DORA = (f"shift/{method}-r4/shufflenet_v2_x0_5" for method in ("lora", "dora"))
CASES = "shift/[dl]ora-r4/shufflenet*"

# One worker for all of them: they share the environments and the runs.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("upgrades")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("upgrades")


@pytest.fixture(scope="module")
def command(folder):
    """Run peft-regress with a cache of its own, from the root of the repository."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST_")}
    environment["PEFT_REGRESS_CACHE"] = str(folder / "cache")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "peft_regress", *arguments],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def newer(command, folder) -> tuple[Path, dict]:
    """The two cases with peft 0.15.2, compared with the stored baseline."""
    file = folder / "0.15.2.json"
    done = command(
        "upgrade", "peft==0.15.2", "--cases", CASES, "--save", str(file), "--format", "json"
    )
    assert done.returncode in {0, 1}, done.stderr
    return file, json.loads(done.stdout)


@pytest.fixture(scope="module")
def older(command, folder, newer) -> tuple[Path, dict, str]:
    """The same with peft 0.14.0, compared with that."""
    file, summary = folder / "0.14.0.json", folder / "issue.md"
    done = command(
        "upgrade", "peft==0.14.0", "--cases", CASES, "--base", str(newer[0]),
        "--save", str(file), "--summary", str(summary), "--format", "json",
    )  # fmt: skip
    verdict = json.loads(done.stdout)
    assert done.returncode == verdict["exit_code"] == 1, done.stderr
    return file, verdict, summary.read_text()


def test_a_release_that_convolves_twice_is_one_finding_with_its_layer_part(older):
    verdict = older[1]
    assert verdict["environment"] == [{"package": "peft", "old": "0.15.2", "new": "0.14.0"}]
    assert {case["id"]: case["verdict"] for case in verdict["cases"]} == {
        LORA: "unchanged",
        DORA: "regressed",
    }
    (finding,) = [found for found in verdict["findings"] if found["verdict"] == "regressed"]
    assert (finding["kind"], finding["what"]) == ("costs", "forward_flops")
    assert finding["where"] == ["lora_magnitude_vector.default", "convolution"]
    assert finding["base_runs"] == 1
    assert finding["cases"] == [DORA]


def test_the_issue_text_has_a_script_that_shows_it_without_this_project(older):
    text = older[2]
    script = text.partition("```python\n")[2].partition("```")[0]
    assert "import peft" in script
    assert "peft_regress" not in script
    outputs = [block.partition("```")[0] for block in text.split("```text\n")[1:]]
    flops = [
        int(line.removeprefix("forward_flops: "))
        for output in outputs
        for line in output.splitlines()
        if line.startswith("forward_flops: ") and line.count(" ") == 1
    ]
    # In both releases what this project's own ledger has.
    assert flops == [94642816, 169906816]


def test_the_run_of_a_release_compares_and_is_accepted_as_history(command, folder, newer, older):
    compared = command("compare", str(newer[0]), str(older[0]), "--format", "json")
    assert compared.returncode == 1
    storage = folder / "baselines"
    accepted = command(
        "accept", str(older[0]), "--history", "--reason", "for a test", "--baselines", str(storage)
    )
    assert accepted.returncode == 0, accepted.stderr
    shown = command("history", "--baselines", str(storage), "--by", "peft", "--case", DORA)
    assert shown.returncode == 0, shown.stderr
    assert "forward_flops" in shown.stdout


def test_bisection_finds_the_release_by_costs_alone(command):
    done = command(
        "bisect", "peft", "--good", "0.14.0", "--bad", "0.15.2", "--case", DORA, "--metric",
        "forward_flops", "--format", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["releases"] == ["0.14.0", "0.15.0", "0.15.1", "0.15.2"]
    (transition,) = found["transitions"]
    assert (transition["last_good"], transition["first_bad"]) == ("0.14.0", "0.15.0")
    assert found["evidence"] == "costs"


def test_lora_is_the_same_at_both_ends_which_is_no_boundary(command):
    done = command(
        "bisect", "peft", "--good", "0.14.0", "--bad", "0.15.2", "--case", LORA, "--metric",
        "forward_flops",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "no boundary" in done.stdout


def test_a_release_that_needs_another_transformers_gets_it(command, folder):
    done = command(
        "upgrade", "peft==0.16.0", "--cases", LORA, "--format", "json",
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    verdict = json.loads(done.stdout)
    moved = {row["package"] for row in verdict["environment"]}
    assert {"peft", "transformers"} <= moved
    assert any("transformers<5 was added" in remark for remark in verdict["remarks"])
