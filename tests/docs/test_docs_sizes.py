"""The sizes of run files in docs/run-file.md against the stored entries.

If an accepted run changes them, the failing test shows the new row.
"""

from __future__ import annotations

import copy
import gzip
from functools import cache
from pathlib import Path

import msgspec
import pytest

from peft_regress.baselines.storage import baseline_files
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.runs.json_layout import dump_json
from peft_regress.runs.ledger import LEDGER_METRICS, rows_of
from peft_regress.runs.run_file import read_run_file, run_document
from peft_regress.runs.schema import Ledger

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "run-file.md").read_text()
MATRICES = ("default", "extended", "edge")


@cache
def stored(matrix):
    """Return the newest baseline with every case of a matrix that any baseline has."""
    runs = {path: read_run_file(path).run for path in baseline_files(ROOT / "baselines")}
    known = {name for run in runs.values() for name in run.cases}
    wanted = known & {case.id for case in matrix_cases(matrix)}
    for path, run in reversed(runs.items()):
        if run.accepted.role == "baseline" and wanted <= run.cases.keys():
            return path
    pytest.fail(f"no stored baseline holds the whole {matrix} matrix")


@cache
def content(matrix):
    """Return the entry as a run file, which has its ledgers."""
    file = read_run_file(stored(matrix))
    return run_document(msgspec.structs.replace(file.run, accepted=None), file.document)


def ledgers(matrix):
    """Return the ledgers in the file, by digest."""
    return dict(content(matrix)["peft_regress"]["ledgers"])


def text_with(matrix, *kept):
    """Return the file with only the ledgers of the named cases."""
    value = copy.deepcopy(content(matrix))
    ours = value["peft_regress"]
    digests = {ours["cases"][name]["ledger"] for name in kept}
    ours["ledgers"] = {one: ledger for one, ledger in ours["ledgers"].items() if one in digests}
    return dump_json(value).encode()


def megabytes(text):
    return f"{len(text) / 1e6:.2f} MB ({len(gzip.compress(text, 9)) / 1e6:.2f})"


def row(matrix):
    whole, bare = dump_json(content(matrix)).encode(), text_with(matrix)
    modules = sum(len(ledger["modules"]) for ledger in ledgers(matrix).values())
    of_ledgers = len(whole) - len(bare)
    cells = (
        matrix,
        f"{len(content(matrix)['peft_regress']['cases'])}",
        f"{len(whole.splitlines()):,}",
        megabytes(whole),
        megabytes(bare),
        f"{len(ledgers(matrix))}",
        f"{modules:,}",
        f"{of_ledgers / len(ledgers(matrix)) / 1e3:.0f} KB",
        f"{of_ledgers / modules:.0f} bytes",
    )
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_sizes_of_a_run_file_are_those_of_the_stored_one(matrix):
    table = PAGE.partition("<!-- run-file-sizes -->")[2].partition("<!-- /run-file-sizes -->")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {matrix} |")]
    assert line == row(matrix)


@pytest.mark.parametrize(
    ("shown", "case"),
    [
        ("head-only resnet18 is small, {};", "shift/head/resnet18"),
        ("DoRA on mobilenet_v3_small is large, {}.", "shift/dora-r4/mobilenet_v3_small"),
    ],
)
def test_the_sizes_of_two_ledgers_are_those_in_the_stored_file(shown, case):
    size = len(text_with("default", case)) - len(text_with("default"))
    assert shown.format(f"{size / 1e3:.0f} KB") in " ".join(PAGE.split())


@pytest.mark.parametrize("matrix", ["default", "extended"])
def test_a_ledger_written_out_has_four_times_as_many_numbers(matrix):
    assert "the rows of the other two would have four times as many numbers" in " ".join(
        PAGE.split()
    )
    held = sum(numbers_in(ledger["modules"]) for ledger in ledgers(matrix).values())
    written_out = sum(
        len(rows_of(msgspec.convert(ledger, Ledger), metric) or {})
        for ledger in ledgers(matrix).values()
        for metric in LEDGER_METRICS
    )
    assert round(written_out / held) == 4


def numbers_in(value):
    return sum(map(numbers_in, value.values())) if isinstance(value, dict) else 1
