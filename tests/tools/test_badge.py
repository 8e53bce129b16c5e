"""tools/ci/badge.py: the badge says what the verdict is, and is green only if all passed."""

from __future__ import annotations

import json
import subprocess
import sys

import badge
import pytest
from builders import VALUES, make_record, make_run, write_run
from click.testing import CliRunner

from peft_regress.cli.main import cli
from peft_regress.gate.verdicts import FAILING, INCOMPLETE, UNACCEPTED


@pytest.mark.parametrize(
    ("code", "counts", "message", "color"),
    [
        (0, {"unchanged": 96}, "no regression", "brightgreen"),
        (0, {"unchanged": 90, "improved": 6}, "no regression", "brightgreen"),
        (1, {"regressed": 24, "unchanged": 72}, "24 regressed", "red"),
        (1, {"regressed": 1, "over_budget": 2, "missing": 3}, "2 over budget, 1 regressed", "red"),
        (1, {"improved": 3, "fixed": 1}, "1 fixed, 3 improved not accepted", "red"),
        (1, {"unchanged": 96}, "failed", "red"),
        (3, {"missing": 2, "new": 1}, "2 missing, 1 new", "orange"),
        (3, {"unchanged": 5}, "incomplete", "orange"),
        (0, {}, "not judged", "lightgrey"),
        (2, {"unchanged": 96}, "not judged", "lightgrey"),
    ],
)
def test_the_badge_says_the_gravest_that_the_run_has(code, counts, message, color):
    findings = json.dumps({"exit_code": code, "counts": counts})
    assert badge.verdict_of(findings) == (message, color)


@pytest.mark.parametrize(
    "findings",
    ["", "{", "[]", "7", '{"exit_code": 0}', '{"exit_code": 0, "counts": 3}',
     '{"exit_code": 0, "counts": {"unchanged": null}}', "[" * 100_000],
)  # fmt: skip
def test_what_cannot_be_read_was_not_judged(findings):
    assert badge.verdict_of(findings)[0] == "not judged"


def test_the_badge_knows_every_verdict_that_fails():
    assert set(badge._FAILING) == FAILING
    assert set(badge._INCOMPLETE) == INCOMPLETE
    assert set(badge._UNACCEPTED) == UNACCEPTED


@pytest.mark.parametrize("flops", [VALUES["forward_flops"], 10**10, None])
def test_the_badge_reads_what_compare_prints(tmp_path, flops):
    findings, target = tmp_path / "findings.json", tmp_path / "badge.json"
    if flops is not None:
        old = write_run(tmp_path / "old.json")
        record = make_record(metrics={**VALUES, "forward_flops": flops})
        new = write_run(tmp_path / "new.json", make_run(record))
        words = ["compare", str(old), str(new), "--stored-only", "--format", "json"]
        findings.write_text(CliRunner().invoke(cli, words).stdout)
    subprocess.run([sys.executable, "-S", badge.__file__, findings, target], check=True)
    message = {10**10: "1 regressed", None: "not judged"}.get(flops, "no regression")
    made = json.loads(target.read_text())
    assert (made["schemaVersion"], made["label"], made["message"]) == (1, "gate", message)
