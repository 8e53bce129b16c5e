"""The table of what a run measured."""

import pytest
from builders import FULL, LORA, VALUES, make_record, make_run

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.report import results_table
from peft_regress.report.layout import Layout
from peft_regress.report.results import results
from peft_regress.runs.schema import Curve, Failure

WIDE = {
    **VALUES,
    "trainable_params": 11_181_642,
    "adapter_bytes": 44_782_576,
    "forward_flops": 3_638_757_376,
    "backward_flops": 7_270_757_376,
    "peak_bytes": 320 * 2**20,
    "peak_bytes_b32": 12_900 * 2**20,
    "accuracy": [1.0, 1.0, 1.0],
    "step_seconds": [1.23456] * 3,
}
NUMBERS = ["11,181,642", "42.7", "3.639", "7.271", "320.0", "12900", "100.0", "%", "1.2"]


def lines_of(*records, width=100):
    return results_table(make_run(*records), Layout(width=width)).splitlines()


def test_the_default_matrix_is_a_row_for_each_case_in_100_columns():
    lines = lines_of(*(make_record(case.id, WIDE) for case in matrix_cases()))
    rows = [row.split() for row in lines[2:] if "/" in row]
    assert [row[0] for row in rows] == sorted(case.id for case in matrix_cases())
    assert all(row[1 : len(NUMBERS) + 1] == NUMBERS for row in rows)
    assert max(map(len, lines)) <= 100


def test_each_column_has_one_unit_that_suits_its_numbers():
    small = {**WIDE, "adapter_bytes": 3_000, "forward_flops": 2_000,
             "backward_flops": 3_000_000, "peak_bytes": 40_000,
             "peak_bytes_b32": 900_000, "step_seconds": [0.0021] * 3}  # fmt: skip
    headings, units, row = lines_of(make_record(LORA, small), width=200)[:3]
    assert headings.split()[1:4] == ["trained", "ship", "fwd"]
    # What is to be compared shares one.
    assert units.split()[:6] == ["KiB", "kFLOP", "kFLOP", "KiB", "KiB", "ms"]
    assert row.split()[2:6] == ["2.93", "2.000", "3000", "39.1"]


def own(identifier, **more):
    return make_record(identifier, WIDE, profiled_on="fake tensors", **more)


@pytest.mark.parametrize(
    ("records", "heading"),
    [
        ([own("a/lora-r4/net", batch=16), own("a/full/net", batch=16)], "peak b16"),
        ([own("a/lora-r4/net", batch=16), own("a/full/net", batch=8)], "peak"),
        ([own("a/lora-r4/net", batch=16), make_record(LORA, WIDE)], "peak"),
        ([own("a/lora-r4/net")], "peak"),  # of an old file, which does not say it
        ([make_record(LORA, WIDE), make_record("edge/full/net", status="error")], "peak b1"),
    ],
)
def test_the_peak_is_that_of_the_batch_that_all_cases_share(records, heading):
    run = make_run(*records)
    headings = results(run).headings
    assert headings[headings.index("bwd") + 1] == heading


def test_a_repeated_score_is_in_the_column_of_scores():
    metrics = {name: value for name, value in WIDE.items() if name not in {"accuracy", "loss"}}
    scored = Curve(losses=[1.0], scores={"loss": 1.0, "score": 3.0})
    record = make_record(LORA, metrics, curve=scored, repeats="0001_peft")
    table = results(make_run(record))
    cells = dict(zip(table.headings, table.rows[0].cells, strict=True))
    assert (cells["accuracy"], cells["score"]) == ("", "repeated")


def test_a_long_id_costs_no_number():
    identifier = f"task/method/{'a' * 80}"
    lines = lines_of(make_record(identifier, WIDE))
    assert lines[-2] == identifier
    assert lines[-1].split()[: len(NUMBERS)] == NUMBERS


def test_a_narrow_terminal_gets_fewer_columns_and_a_line_that_names_the_others():
    records = [make_record(case.id, WIDE) for case in matrix_cases()]
    lines = lines_of(*records, width=75)
    assert max(map(len, lines)) <= 75
    assert len(lines) < len(records) + 6
    assert lines[0].split() == ["case", "trained", "fwd", "peak", "b1", "accuracy"]
    assert "left out for lack of room: ship, bwd, peak b32, step" in " ".join(lines[-2:])
    wide = lines_of(*records, width=200)
    assert "peak b32" in wide[0]
    assert "left out" not in wide[-1]
    records = [make_record(LORA, {**WIDE, "optimizer_state_bytes": 9 * 2**20, "loss": [0.5] * 3})]
    headings = lines_of(*records, width=200)[0]
    assert headings.index("optimizer") < headings.index("loss")
    assert "loss" not in lines_of(*records, width=90)[0]


def test_a_failed_case_has_its_error_below_and_does_not_widen_the_table():
    error = Failure(type="ValueError", message="Target modules not found in the base model " * 5)
    failed = make_record(FULL, status="unsupported", error=error)
    lines = lines_of(failed, make_record(LORA, WIDE))
    assert lines[2] == FULL
    assert lines[3].startswith("  unsupported (ValueError: Target modules not found")
    (row,) = (line.split() for line in lines if line.startswith(LORA))
    assert row[: len(NUMBERS) + 1] == [LORA, *NUMBERS]
    assert max(map(len, lines)) <= 100


def test_an_absent_metric_is_a_dash_and_a_column_without_any_number_is_not_shown():
    lines = lines_of(make_record(LORA, {"trainable_params": 5}), make_record(FULL, {}))
    assert [line.split() for line in lines] == [["case", "trained"], [FULL, "-"], [LORA, "5"]]


def test_what_an_update_needs_on_a_device_is_shown_where_a_case_is_exported():
    mib = 2**20
    edge = {
        "peak_bytes": 24 * mib,
        "edge_train_bytes": 19 * mib,
        "edge_inference_planned_bytes": int(6.25 * mib),
        "edge_train_program_bytes": 9 * mib,
    }
    headings, units, row = lines_of(make_record(LORA, edge))[:3]
    assert " ".join(headings.split()) == "case peak b1 edge train edge run edge file"
    assert units.split() == ["MiB"] * 4
    assert row.split()[1:] == ["24.0", "19.0", "6.25", "9.00"]
    assert not any("edge" in line for line in lines_of(make_record(LORA, WIDE)))
