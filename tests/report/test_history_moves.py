"""What `peft-regress history` shows first, and with --moved: the moves, and what is left out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from builders import ENVIRONMENT, FULL, LORA, make_record, make_run, write_entry

from peft_regress.baselines.history import select_moves
from peft_regress.baselines.lines import Entry
from peft_regress.cli.main import main
from peft_regress.report import as_text, moves_document, overview_document
from peft_regress.report.layout import Layout

ROOT = Path(__file__).parents[2]
TWO_SCREENS = 50
NEWER = {**ENVIRONMENT, "peft": "0.19.0"}
COSTS = {"forward_flops": 100, "forward_flops_b32": 100, "backward_flops": 100}


@pytest.fixture
def history(capsys, tmp_path, monkeypatch):
    """Call `history` in a folder of its own; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["history", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def storage(tmp_path):
    """Two entries: LoRA's costs doubled and an invariant broke, full fine-tuning is as it was."""
    root = tmp_path / "baselines"
    lora = [make_record(LORA, COSTS, invariants={"merge_equals_unmerged": True}),
            make_record(LORA, {**COSTS, "forward_flops": 200, "forward_flops_b32": 200},
                        invariants={"merge_equals_unmerged": False})]  # fmt: skip
    for number, record in enumerate(lora, start=1):
        packages = NEWER if number == 2 else ENVIRONMENT
        title = f"peft-{packages['peft']}"
        full = make_record(FULL, COSTS)
        write_entry(root, number, record, full, environment=packages, title=title)
    return root


def many(entries: int, cases: int) -> list[Entry]:
    """Return a history in which every metric of every case moves in every entry."""
    found = []
    for number in range(entries):
        records = [
            make_record(
                f"shift/method{case}-r{case}/network{case}",
                dict.fromkeys((*COSTS, "peak_bytes", "adapter_bytes"), 100 + number * case),
                invariants={"merge_equals_unmerged": bool(number % 2)},
            )
            for case in range(1, cases + 1)
        ]
        packages = {f"package{at}": str(number) for at in range(50)}
        found += [
            Entry(
                name=f"{number:04d}_peft",
                date="2026-01-01",
                role="baseline",
                run=make_run(*records, environment=packages),
            )
        ]
    return found


def test_the_first_look_has_the_largest_moves_and_what_changed_with_them(history, storage):
    code, out, err = history()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1] == "  1 of 2 cases moved beyond a bound, last in 0002_peft-0.19.0"
    assert "compared with 0001_peft-0.18.1: peft 0.18.1 -> 0.19.0" in lines[3]
    assert lines[4:6] == [
        f"  worse in {LORA}: invariant merge_equals_unmerged true -> false",
        f"  worse in {LORA}: forward_flops +100 %",
    ]
    # At batch 32 it is the same news.
    assert lines[6] == "  and 1 more metric"


def test_the_last_lines_say_what_is_left_out_and_their_commands_show_it(history, storage):
    storage.rename(storage.parent / "o p")
    out = history("--baselines", "o p")[1]
    assert "left out: 1 of 3 moves, and what stayed within its bound" in out
    every, case = (line.partition("`")[2].rstrip("`") for line in out.splitlines()[-2:])
    words = [shlex.split(line)[2:] for line in (every, case)]
    assert "forward_flops_b32" in history(*words[0])[1]
    assert "backward_flops 100 FLOP" in history(*words[1])[1]


def test_the_first_look_fits_on_two_screens_however_much_moved():
    moves = select_moves(many(entries=9, cases=40))
    text = as_text(overview_document(moves, "peft-regress history"), Layout(width=80))
    assert len(text.splitlines()) <= TWO_SCREENS
    assert "left out: " in text
    assert len(as_text(moves_document(moves)).splitlines()) > 5 * TWO_SCREENS


def test_a_larger_move_at_batch_32_does_not_hide_the_one_at_batch_1():
    both = {"forward_flops": 100, "forward_flops_b32": 100}
    moved = [
        {"forward_flops": 150, "forward_flops_b32": 900},
        {"forward_flops": 100, "forward_flops_b32": 900},
    ]
    entries = [
        Entry(name=str(number), date="2026-01-01", role="baseline", run=make_run(*records))
        for number, records in enumerate(
            [
                [make_record(LORA, both), make_record(FULL, both)],
                [make_record(LORA, moved[0]), make_record(FULL, moved[1])],
            ]
        )
    ]
    text = as_text(overview_document(select_moves(entries), "peft-regress history"))
    assert f"worse in {LORA}: forward_flops +50 %" in text


def test_the_first_look_at_this_repository_fits_on_two_screens(history, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = history()
    assert (code, len(out.splitlines()) <= TWO_SCREENS) == (0, True)
    assert "worse in 24 cases: forward_flops +41.48 % to +98.46 %" in out


def test_a_history_in_which_nothing_moved_says_so(history, tmp_path):
    write_entry(tmp_path / "baselines", 1, make_record(LORA, COSTS))
    out = history()[1]
    assert "  0 of 1 case moved beyond a bound" in out.splitlines()
    assert "--moved" not in out
    assert f"peft-regress history --cases {LORA}" in out


def test_a_narrowed_history_still_shows_every_metric(history, storage):
    for narrowed in (["--cases", "*"], ["--metric", "*"], ["--all"]):
        assert "backward_flops" in history(*narrowed)[1]
    found = json.loads(history("--format", "json")[1])
    assert found.keys() == {"schema_version", "cases"}
    assert {case["id"] for case in found["cases"]} == {LORA, FULL}


def test_moved_shows_only_what_moved_and_all_of_it(history, storage):
    out = history("--moved")[1]
    assert FULL not in out
    assert "backward_flops" not in out
    rows = [line.split() for line in out.splitlines() if "forward_flops" in line]
    assert [row[:3] for row in rows] == [
        ["forward_flops", "+100", "%"],
        ["forward_flops_b32", "+100", "%"],
    ]
    assert "invariant" not in history("--moved", "--metric", "forward*")[1]


def test_moved_as_json_adds_where_how_far_and_what_changed(history, storage):
    found = json.loads(history("--moved", "--format", "json", "--metric", "forward_flops")[1])
    assert [
        (case["id"], [line["metric"] for line in case["lines"]]) for case in found["cases"]
    ] == [(LORA, ["forward_flops"])]
    assert found["moves"] == [
        {
            "case": LORA,
            "metric": "forward_flops",
            "unit": "flop",
            "before": "0001_peft-0.18.1",
            "entry": "0002_peft-0.19.0",
            "old": 100,
            "new": 200,
            "relative_change": 1.0,
            "way": "worse",
            "packages": [{"package": "peft", "old": "0.18.1", "new": "0.19.0"}],
        }
    ]
    assert found["redefined"] == []


def test_a_case_that_is_defined_anew_is_named(history, tmp_path):
    for number in (1, 2):
        record = make_record(LORA, COSTS, definition=f"sha256:{number}")
        write_entry(tmp_path / "baselines", number, record)
    for how in ([], ["--moved"]):
        assert (
            f"defines 1 case anew: nothing before can be compared\n    {LORA}" in history(*how)[1]
        )


def test_what_is_no_longer_measured_or_checked_is_told_without_a_ratio(history, tmp_path):
    whole = {**COSTS, "projection_flops": 5, "adapter_bytes": 4}
    invariants = {"merge_equals_unmerged": True}
    write_entry(tmp_path / "baselines", 1, make_record(LORA, whole, invariants=invariants))
    write_entry(tmp_path / "baselines", 2, make_record(LORA, COSTS))
    assert "adapter_bytes 4 B -> absent, projection_flops 5 FLOP -> absent" in history()[1]
    out = history("--moved")[1]
    assert f"worse in {LORA}: invariant merge_equals_unmerged true -> unchecked" in out
    rows = [line.split() for line in out.splitlines() if "_flops" in line or "_bytes" in line]
    assert rows == [
        ["adapter_bytes", "gone", "4", "B", "absent"],
        ["projection_flops", "gone", "5", "FLOP", "absent"],
    ]


def test_a_change_of_one_case_is_not_told_of_all(history, tmp_path):
    flops = {"forward_flops": 5}
    for number, values in enumerate(((flops, flops), ({}, {"forward_flops": 10})), start=1):
        records = [
            make_record(name, {**more, "peak_bytes": 1})
            for name, more in zip((LORA, FULL), values, strict=True)
        ]
        write_entry(tmp_path / "baselines", number, *records)
    assert "worse in 2 cases: forward_flops +100 % to gone" in history()[1]


def test_moves_in_markdown_are_lists_and_tables(storage, history):
    out = history("--moved", "--format", "markdown")[1]
    assert "## 0002\\_peft-0.19.0" in out
    assert "| forward\\_flops | +100 % | 100 FLOP | 200 FLOP |" in out


def test_moved_and_all_exclude_each_other(history, storage):
    code, out, err = history("--moved", "--all")
    assert (code, out) == (2, "")
    assert "choose one" in err
