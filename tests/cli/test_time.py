"""The command `time`: what it prints, and how it ends."""

import json
import math
import re

import pytest
from fake_interpreters import write_worker

from peft_regress import report
from peft_regress.gate.paired_times import CaseTimes, Estimate, TimingRun

CASE = "shift/head/shufflenet_v2_x0_5"


@pytest.fixture
def time(command, tmp_path):
    """Call `peft-regress time` on two workers and return (exit code, stdout, stderr)."""

    def call(*options, base=None, candidate=None, **worker):
        sides = (
            base or write_worker(tmp_path / "base", packages={"peft": "0.21.2"}),
            candidate
            or write_worker(tmp_path / "candidate", packages={"peft": "0.14.0"}, **worker),
        )
        return command("time", *sides, "--pairs", "24", "--cases", CASE, *options)

    return call


def test_a_slower_step_is_exit_1_with_the_interval_and_what_differs(time):
    code, out, err = time(seconds=0.0115)
    assert code == 1
    assert re.search(rf"^{CASE}\s+slower\s+10\..* ms .*\]\s+24$", out, re.MULTILINE), out
    assert "environment: peft 0.21.2 -> 0.14.0" in out
    assert "95 % each" in out
    assert out.endswith("SLOWER (1 slower)\n")
    assert err == f"[1/1] {CASE}: slower\n"


def test_an_equal_step_is_exit_0_and_an_absent_interpreter_exit_2(time):
    code, out, _ = time()
    assert code == 0
    assert out.endswith("no step is slower (1 same)\n")
    for side in ("base", "candidate"):
        code, out, err = time(**{side: "/nowhere/python"})
        assert (code, out) == (2, "")
        assert "/nowhere/python: cannot be started: No such file" in err


def test_json_has_everything_that_the_verdict_follows_from(time):
    code, out, _ = time("--format", "json", seconds=0.0115)
    found = json.loads(out)
    assert set(found) == {
        *("schema_version", "exit_code", "base", "candidate", "environment", "counts", "cases")
    }
    assert (found["schema_version"], found["exit_code"], code) == (1, 1, 1)
    assert found["environment"] == [{"package": "peft", "base": "0.21.2", "candidate": "0.14.0"}]
    (case,) = found["cases"]
    assert case["interval"][0] < case["ratio"] < case["interval"][1]
    assert (case["id"], case["verdict"], case["pairs"]) == (CASE, "slower", 24)
    assert case["confidence"] == pytest.approx(0.95)
    assert case["base_step_seconds"] < case["candidate_step_seconds"]
    assert case["problem"] is None


def test_a_case_that_cannot_be_timed_is_exit_3_in_every_format(time):
    problem = "ImportError: cannot import name 'HybridCache'"
    code, out, _ = time("--format", "json", how={"prepare": "refuse"})
    assert code == 3
    (case,) = json.loads(out)["cases"]
    assert problem in case["problem"]
    assert (case["verdict"], case["ratio"], case["interval"]) == ("failed", None, None)
    for output in ("text", "markdown"):
        code, out, _ = time("--format", output, how={"prepare": "refuse"})
        assert code == 3
        assert problem in " ".join(out.split())
        assert "INCOMPLETE" in out


def test_an_interval_too_wide_names_the_pairs_that_would_do():
    estimate = Estimate(ratio=1.02, low=0.9, high=math.inf, confidence=0.95, pairs=30)
    case = CaseTimes(id=CASE, verdict="undetermined", pairs=((1.0, 1.02),), estimate=estimate)
    run = TimingRun(base="a", candidate="b", cases=(case,))
    for shown in (
        report.as_text(report.times_document(run)),
        report.as_markdown(report.times_document(run)),
    ):
        assert "a step may still be 10 % slower" in shown
        assert "pairs 120" in shown.replace("\\", "")
        assert "no bound" in shown
    assert report.encode_times(run)["cases"][0]["interval"] == [0.9, None]
    assert run.exit_code == 3
