"""Real releases of peft through the commands, as a user types them, here and on a cluster."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dask_clusters import local_cluster

from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]
DORA = "shift/dora-r4/shufflenet_v2_x0_5"

# One worker for all: they share the cache of environments.


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Run peft-regress with a cache of its own, from the root of the repository."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST_")}
    environment["PEFT_REGRESS_CACHE"] = str(tmp_path_factory.mktemp("cache"))

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "peft_regress", *arguments, "--format", "json"],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    run.environment = environment
    return run


@pytest.fixture
def nodes(command, tmp_path, monkeypatch):
    """Start two workers of a cluster; return its address."""
    with contextlib.ExitStack() as stack:
        for name, value in command.environment.items():
            monkeypatch.setenv(name, value)
        yield stack.enter_context(local_cluster(tmp_path)).scheduler_address


@pytest.mark.nightly
def test_bisection_finds_the_release_that_convolves_twice_and_writes_a_script(command, tmp_path):
    summary = tmp_path / "issue.md"

    code, found = command(
        "bisect", "peft", "--good", "0.15.2", "--bad", "0.14.0", "--case", DORA,
        "--metric", "forward_flops", "--summary", str(summary),
    )  # fmt: skip

    assert code == 0
    assert found["releases"] == ["0.15.2", "0.15.1", "0.15.0", "0.14.0"]
    assert found["evidence"] == "costs"
    (transition,) = found["transitions"]
    assert (transition["last_good"], transition["first_bad"]) == ("0.15.0", "0.14.0")
    assert transition["environment"] == [{"package": "peft", "old": "0.15.0", "new": "0.14.0"}]
    (finding,) = transition["findings"]
    assert (finding["kind"], finding["what"]) == ("costs", "forward_flops")
    assert finding["where"] == ["lora_magnitude_vector.default", "convolution"]
    assert finding["base_runs"] == 1
    text = summary.read_text()
    script = text.partition("```python\n")[2].partition("```")[0]
    assert "import peft" in script
    assert "peft_regress" not in script
    printed = [line for line in text.splitlines() if line.startswith("forward_flops: ")]
    # In both releases the figures of this project's own ledger.
    assert [line for line in printed if line.count(" ") == 1] == [
        "forward_flops: 94642816",
        "forward_flops: 169906816",
    ]


@pytest.mark.nightly
def test_a_release_on_a_cluster_is_as_on_this_machine(command, nodes, tmp_path):
    runs, address = [], nodes
    for on in ("local", address):
        file = tmp_path / str(len(runs)) / "run.json"
        cases = ["--cases", "*/lora-r4/shufflenet_v2_x0_5"]
        code, verdict = command("upgrade", "peft==0.20.0", *cases, "--on", on, "--save", str(file))
        assert code in {0, 1}
        runs.append((read_run_file(file).run, verdict["counts"]))
    assert runs[0] == runs[1]
    assert runs[0][0].environment["peft"] == "0.20.0"

    code, found = command(
        "bisect", "peft", "--good", "0.15.0", "--bad", "0.14.0", "--case", DORA,
        "--metric", "forward_flops", "--on", address,
    )  # fmt: skip
    assert code == 0
    (transition,) = found["transitions"]
    assert (transition["last_good"], transition["first_bad"]) == ("0.15.0", "0.14.0")
