"""Write the tables of docs/devices.md from the accepted edge matrix, or check them.

`page_tables.py` says how. Nothing is measured.
"""

import sys
from functools import cache
from typing import Final

from page_tables import ROOT, main_of_tables, recorded, require, state_table, table
from paper_rows import PRINTED_MIB, Row

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.gate.budget_use import fits
from peft_regress.metrics import format_value
from peft_regress.project.devices import RUNTIME_BYTES, DeviceClass, load_devices, room
from peft_regress.runs.schema import Record

PAGE: Final = ROOT / "docs" / "devices.md"
MIB: Final = 2**20
SAVING: Final = ("head", "bitfit", "lora", "dora")
"""Whose savings are shown; the others keep as much as one of these."""


@cache
def records() -> dict[str, Record]:
    """Return the newest accepted records, among them all of the edge matrix."""
    found = recorded()
    require(matrix_cases("edge"), found, matrix="edge")
    return found


# --- The states -----------------------------------------------------------------------------------


def states() -> str:
    """Return the state of each method on each architecture, and what ExecuTorch says."""
    cases = matrix_cases("edge", task="edge")
    return state_table(cases, records(), lambda case: case.adapter_name)


# --- What is left of the savings ------------------------------------------------------------------


def savings() -> str:
    """Return by how much each method needs less memory than full fine-tuning.

    The paper's total and the peak are in eager PyTorch, the others as ExecuTorch plans them. Cases
    that do not export are left out.
    """
    rows = []
    for case in matrix_cases("edge", task="edge"):
        record, whole = records()[case.id], records()[f"edge/full/{case.architecture}"]
        if case.method in SAVING and {record.status, whole.status} == {"ok"}:
            sizes = zip(_sizes(record), _sizes(whole), strict=True)
            shares = (f"{100 * (1 - part / all_of_it):.0f}" for part, all_of_it in sizes)
            names = [case.architecture, f"`{case.adapter_name}`"]
            rows.append([*names, _mib(_sizes(record)[2]), _printed(case), *shares])
    wholes = ", ".join(
        f"{name} {_mib(whole.metrics['edge_train_bytes'].value)} MiB"
        for name in _architectures()
        if (whole := records()[f"edge/full/{name}"]).status == "ok"
    )
    header = ["architecture", "method", "planned, MiB", "the paper", "eager, categories",
              "eager, peak", "planned", "planned, with the file"]  # fmt: skip
    return f"Full fine-tuning takes: {wholes}\n\n" + table(header, rows, names=2)


def _sizes(record: Record) -> tuple[float, ...]:
    """Return the sum of the categories' highs, the peak, the plan, and the plan with its file."""
    names = ("category_sum_bytes", "peak_bytes", "edge_train_bytes", "edge_train_program_bytes")
    *sizes, file = (record.metrics[name].value for name in names)
    return *sizes, sizes[-1] + file


def _printed(case: Case) -> str:
    """Return the saving that the paper prints: rank 4, one image of 224x224."""
    rows = (Row(case.architecture, case.method, case.rank), Row(case.architecture, "full"))
    part, whole = (PRINTED_MIB.get((row, "total")) for row in rows)
    return f"{100 * (1 - part / whole):.0f}" if part and whole else ""


def _mib(size: float) -> str:
    return f"{size / MIB:.1f}"


# --- What fits ------------------------------------------------------------------------------------


def devices() -> str:
    """Return which methods train on which device class: by memory, and by storage for the file."""
    fitting = {
        f"`{device.name}`": [_fitting(architecture, device) for architecture in _architectures()]
        for device in load_devices()
    }
    rows = [[name, *cells] for name, cells in fitting.items() if set(cells) != {"all"}]
    rest = [name for name, cells in fitting.items() if set(cells) == {"all"}]
    header = ["device", *_architectures()]
    more = f"\n\nAll of them fit {', '.join(rest)}." if rest else ""
    return table(header, rows, names=len(header)) + more


def _fitting(architecture: str, device: DeviceClass) -> str:
    fitting: list[str] = []
    others: list[str] = []
    for case in matrix_cases("edge", task="edge"):
        record = records()[case.id]
        if case.architecture != architecture or record.status != "ok":
            continue
        (fitting if fits(record, device) else others).append(f"`{case.adapter_name}`")
    return "all" if not others else ", ".join(fitting) or "none"


def rooms() -> str:
    """Return what each device class leaves for the tensors of a step, by runtime."""
    rows = []
    for device in load_devices():
        sizes = [device.reserve_bytes, *(room(device, runtime) for runtime in RUNTIME_BYTES)]
        shown = (format_value(size, "byte") if size else "none" for size in sizes)
        rows.append([f"`{device.name}`", *shown])
    header = ["device", "reserve", "PyTorch", "with GaLore", "with PEFT", "ExecuTorch"]
    return table(header, rows)


# --- The page -------------------------------------------------------------------------------------

TABLES: Final = {"states": states, "savings": savings, "devices": devices, "rooms": rooms}


def _architectures() -> list[str]:
    return list(dict.fromkeys(case.architecture for case in matrix_cases("edge", task="edge")))


if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "edge", TABLES))
