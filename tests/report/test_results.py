"""The table of what a run measured."""

from __future__ import annotations

from builders import FULL, LORA, VALUES, make_record, make_run

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.report import results_table
from peft_regress.report.layout import Layout
from peft_regress.runs.schema import Failure

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
NUMBERS = ["11,181,642", "42.71", "3.639", "7.271", "320.0", "12900", "100.0", "%", "1234.6"]


def test_the_default_matrix_is_a_row_for_each_case_in_100_columns():
    table = results_table(make_run(*(make_record(case.id, WIDE) for case in matrix_cases())))
    rows = [row.split() for row in table.splitlines()[1:]]
    assert [row[0] for row in rows] == sorted(case.id for case in matrix_cases())
    assert all(row[1:] == NUMBERS for row in rows)
    assert max(map(len, table.splitlines())) <= 100


def test_a_long_id_costs_no_number():
    identifier = f"task/method/{'a' * 80}"
    table = results_table(make_run(make_record(identifier, WIDE)))
    assert table.splitlines()[-2] == identifier
    assert table.splitlines()[-1].split() == NUMBERS


def test_without_room_for_columns_each_number_has_its_heading():
    table = results_table(make_run(make_record(LORA, WIDE)), Layout(width=40))
    assert "trained 11,181,642, ship 42.71" in " ".join(table.split())


def test_a_failed_case_has_its_error_below_and_does_not_widen_the_table():
    error = Failure(type="ValueError", message="Target modules not found in the base model " * 5)
    failed = make_record(FULL, status="unsupported", error=error)
    lines = results_table(make_run(failed, make_record(LORA, WIDE))).splitlines()
    assert lines[1] == FULL
    assert lines[2].startswith("  unsupported (ValueError: Target modules not found")
    assert lines[-1].split() == [LORA, *NUMBERS]
    assert max(map(len, lines)) <= 100


def test_an_absent_metric_is_a_dash():
    row = results_table(make_run(make_record(LORA, {}))).splitlines()[1]
    assert row.split() == [LORA, *8 * ["-"]]
