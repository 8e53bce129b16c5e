"""tools/ci/badge.py: the badge says what the verdict is, and is green only if all passed."""

from __future__ import annotations

import json

import badge
import pytest
from builders import VALUES, make_record, make_run, write_run
from click.testing import CliRunner

from peft_regress.cli.main import cli
from peft_regress.gate.verdicts import FAILING, INCOMPLETE, UNACCEPTED


def made(tmp_path, findings):
    (tmp_path / "findings.json").write_text(findings)
    target = tmp_path / "badge.json"
    assert badge.main([str(tmp_path / "findings.json"), str(target)]) == 0
    return json.loads(target.read_text())


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
def test_the_badge_says_the_gravest_that_the_run_has(tmp_path, code, counts, message, color):
    found = made(tmp_path, json.dumps({"exit_code": code, "counts": counts}))
    assert found == {"schemaVersion": 1, "label": "gate", "message": message, "color": color}


@pytest.mark.parametrize(
    "findings",
    ["", "{", "[]", "7", '{"exit_code": 0}', '{"exit_code": 0, "counts": 3}',
     '{"exit_code": 0, "counts": {"unchanged": null}}', "[" * 100_000],
)  # fmt: skip
def test_what_cannot_be_read_was_not_judged(tmp_path, findings):
    assert made(tmp_path, findings)["message"] == "not judged"


def test_without_findings_nothing_was_judged(tmp_path):
    assert badge.verdict_of(tmp_path / "nowhere.json") == ("not judged", "lightgrey")


def test_a_badge_that_cannot_be_written_is_an_error(tmp_path, capsys):
    assert badge.main([str(tmp_path / "findings.json"), str(tmp_path / "no" / "badge.json")]) == 2
    assert "cannot be written (No such file or directory)" in capsys.readouterr().err


def test_the_badge_knows_every_verdict_that_fails():
    assert set(badge._FAILING) == FAILING
    assert set(badge._INCOMPLETE) == INCOMPLETE
    assert set(badge._UNACCEPTED) == UNACCEPTED


@pytest.mark.parametrize(
    ("flops", "message"), [(VALUES["forward_flops"], "no regression"), (10**10, "1 regressed")]
)
def test_the_badge_reads_what_compare_prints(tmp_path, flops, message):
    old = write_run(tmp_path / "old.json")
    record = make_record(metrics={**VALUES, "forward_flops": flops})
    new = write_run(tmp_path / "new.json", make_run(record))
    words = ["compare", str(old), str(new), "--stored-only", "--format", "json"]
    assert made(tmp_path, CliRunner().invoke(cli, words).stdout)["message"] == message
