"""The newest numbers in the terminal, and the cases that no other beats."""

import json

from builders import FULL, GALORE, LORA, VALUES, make_record, make_run, write_entry, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.report import as_text
from peft_regress.report.results import accuracy_front, overview
from peft_regress.runs.schema import Failure

METHODS = ("full", "head", "bn_head", "lora-r1", "lora-r4", "dora-r4", "galore-r4")


def record(method, accuracy, peak, *, place="shift/{}/resnet18"):
    metrics = {**VALUES, "accuracy": [accuracy] * 3, "peak_bytes": peak}
    return make_record(place.format(method), metrics)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=len(METHODS)))
def test_no_other_case_beats_one_on_the_front(points):
    """Against the definition: no other is at least as accurate and as cheap, and better in one."""
    records = [
        record(method, a / 10, peak)
        for method, (a, peak) in zip(METHODS, points, strict=False)
    ]  # fmt: skip

    def numbers(one):
        return one.metrics["accuracy"].value, -one.metrics["peak_bytes"].value

    def is_beaten(one):
        mine = numbers(one)
        return any(
            all(a >= b for a, b in zip(numbers(other), mine, strict=True))
            and numbers(other) != mine
            for other in records
        )

    front = accuracy_front(records, "peak_bytes")
    ids = sorted(one.case.id for one in front)
    assert ids == sorted(o.case.id for o in records if not is_beaten(o))
    costs = [one.metrics["peak_bytes"].value for one in front]
    assert costs == sorted(costs)


def test_failed_cases_are_on_no_front():
    failed = make_record(LORA, status="error", error=Failure(type="KeyError", message="x"))
    blind = make_record(FULL, {"peak_bytes": 1})
    good = record("head", 0.5, 100)
    assert accuracy_front([failed, blind, good], "peak_bytes") == [good]
    assert "best accuracy" not in as_text(overview(make_run(failed), sources="x"))


def test_the_text_names_the_sources_the_numbers_and_the_front():
    run = make_run(record("head", 0.5, 50 * 2**20), record("lora-r4", 0.9, 60 * 2**20))
    text = as_text(overview(run, sources="0001_peft-0.21.2"))
    assert text.startswith("2 cases, from 0001_peft-0.21.2\n")
    assert "shift/lora-r4/resnet18" in text
    assert "resnet18 on shift: head (50.0 %, 50.00 MiB), lora-r4 (90.0 %, 60.00 MiB)" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def storage(tmp_path):
    root = tmp_path / "baselines"
    write_entry(root, 1, make_record(LORA), make_record(FULL))
    return root


def test_the_command_shows_the_newest_baseline_and_a_run_that_is_named(tmp_path, command):
    root = storage(tmp_path)
    code, out, _ = command("report", "--baselines", root)
    assert code == 0
    assert out.startswith("2 cases, from 0001_")
    run = write_run(tmp_path / "run.json", make_run(make_record(GALORE), make_record(FULL)))
    code, out, _ = command("report", run, "--baselines", root, "--format", "markdown")
    assert code == 0
    assert out.startswith(f"3 cases, from {str(run).replace('_', chr(92) + '_')}, 0001")
    code, out, _ = command("report", "--baselines", root, "--cases", "*/full/*")
    assert out.startswith("1 case, from 0001_")
    code, out, _ = command("report", "--baselines", root, "--format", "json")
    assert [case["id"] for case in json.loads(out)["cases"]] == [FULL, LORA]


def test_absent_things_are_exit_3(tmp_path, command):
    code, _, err = command("report", "--baselines", tmp_path / "none")
    assert (code, "no entry there, and no run was named" in err) == (3, True)
    root = storage(tmp_path)
    code, _, err = command("report", "--baselines", root, "--cases", "nothing")
    assert (code, "matches none of the 2 cases" in err) == (3, True)


def test_no_page_is_written_over_a_run_that_it_shows(tmp_path, command):
    root = storage(tmp_path)
    [stored] = root.glob("*/*.json")
    run = write_run(tmp_path / "run.json")
    shard = write_run(tmp_path / "shards" / "a.json", make_run(make_record(GALORE)))
    before = {path: path.read_bytes() for path in (stored, run, shard)}
    for path in before:
        found = command("report", run, shard.parent, "--baselines", root, "--html", path)
        assert (found[0], found[1]) == (2, "")
        why = "lies in the baseline storage" if path == stored else "is the run that is read"
        assert f"--html {path}: {why}" in found[2]
    assert {path: path.read_bytes() for path in before} == before
    page = shard.parent / "page.html"
    code, out, _ = command("report", shard.parent, "--baselines", "none", "--html", page)
    assert (code, out.split(", ")[:2]) == (0, [f"wrote {page}: 1 case", "1 entry"])
