"""The tables of docs/devices.md: what they say of records, and that the page has them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import edge_page as tool
import pytest
from builders import make_record

from peft_regress.catalogue.matrix import matrix_cases

if TYPE_CHECKING:
    from peft_regress.runs.schema import Record

MIB = 2**20
BYTES = {
    # eager: sum of categories, peak; planned: training, its file
    "full": (121, 100, 50, 9),
    "lora": (95, 80, 45, 9),
    "head": (30, 20, 3, 9),
    "dora": (140, 100, 60, 20),
}
OTHER = (100, 90, 48, 9)
NAMES = ("category_sum_bytes", "peak_bytes", "edge_train_bytes", "edge_train_program_bytes")


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """Return made-up records: bn_head does not export, DoRA's gradients are wrong."""
    found = {}
    for case in matrix_cases("edge"):
        values = BYTES.get(case.method, OTHER)
        metrics = {name: value * MIB for name, value in zip(NAMES, values, strict=True)}
        more: dict[str, Any] = {"metrics": metrics}
        if case.method == "bn_head":
            more = {"status": "unsupported"}
        if case.method == "dora":
            more["invariants"] = {"edge_gradients_equal_eager": False}
        found[case.id] = make_record(case.id, **more)
    return found


def test_equal_states_share_a_row_and_what_is_refused_has_its_message(records: Any) -> None:
    lines = tool.states(records).splitlines()
    assert any(line.startswith("| `bn_head` | unsupported (1) |") for line in lines)
    assert any(line.startswith("| `dora-r4` | false: `edge_gradients_eq") for line in lines)
    assert any(re.match(r"\| `full`, `head`, .*`lora-r4`.* \| ok \|", line) for line in lines)
    assert lines[-1] == "1. `ValueError: no eligible module`"


def test_savings_are_shares_of_full_fine_tuning_beside_what_the_paper_prints(records: Any) -> None:
    text = tool.savings(records)
    assert "| mobilenet_v2 | `lora-r4` | 45.0 | 22 % | 21 % | 20 % | 10 % | 8 % |" in text
    assert "| mobilenet_v2 | `lora-r16` | 45.0 |  | 21 % | 20 % | 10 % | 8 % |" in text
    assert "| mobilenet_v2 | `dora-r4` | 60.0 | -16 % | -16 % | 0 % | -20 % | -36 % |" in text
    assert "| efficientnet_lite0 | `head` | 3.0 |  | 75 % | 80 % | 94 % | 80 % |" in text
    assert "`edge-b8`, over full fine-tuning, which takes: mobilenet_v2 50.0 MiB" in text


def test_a_method_fits_by_memory_and_by_the_storage_of_its_file(records: Any) -> None:
    table = tool.devices(records)
    small, board = table.splitlines()[2:4]
    assert small.startswith("| `stm32n6` | `head` |")
    assert board.startswith("| `esp32-p4` | `head` |")  # 32 MiB, and 16 for the file
    assert table.endswith("`raspberry-pi-5-8gb`.")
