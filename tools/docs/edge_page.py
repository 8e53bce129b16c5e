"""Write the tables of docs/devices.md from the accepted edge matrix, or check them.

    python tools/docs/edge_page.py                  print every table
    python tools/docs/edge_page.py --write          put them into docs/devices.md
    python tools/docs/edge_page.py --check          exit 1 if the page differs
    python tools/docs/edge_page.py --run RUN        from a run file, such as runs/bench-edge.json

A table is between the comments `<!-- edge:NAME -->` and `<!-- /edge:NAME -->`. Nothing is measured.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from page_tables import finish, option_parser, table

from peft_regress.baselines.named_runs import named_cases
from peft_regress.baselines.references import read_references
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.devices import load_devices
from peft_regress.runs.ledger import rows_of
from peft_regress.runs.schema import Ledger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from peft_regress.cases import Case
    from peft_regress.devices import DeviceClass
    from peft_regress.runs.schema import Record

    Records = Mapping[str, Record]

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "devices.md"
PRINTED: Final = ROOT / "benchmarks" / "paper_tables.json"
MIB: Final = 2**20
SAVING: Final = ("head", "bitfit", "lora", "dora")
"""Whose savings are shown; the others keep as much as one of these."""


# --- The states -----------------------------------------------------------------------------------


def states(records: Records) -> str:
    """Return the state of each method on each architecture, and what ExecuTorch says."""
    notes: dict[str, int] = {}
    cells: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for case in matrix_cases("edge", task="edge"):
        cells[case.adapter_name][case.architecture] = _state(records[case.id], notes)
    architectures = _architectures()
    together: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, found in cells.items():
        together[tuple(found.get(name, "no case") for name in architectures)].append(f"`{method}`")
    rows = [[", ".join(names), *found] for found, names in together.items()]
    said = "\n".join(f"{number}. {note}" for note, number in notes.items())
    return table(["method", *architectures], rows, names=1 + len(architectures)) + f"\n\n{said}"


def _state(record: Record, notes: dict[str, int]) -> str:
    if record.error is not None:
        number = notes.setdefault(f"`{record.error.message}`", len(notes) + 1)
        return f"{record.status} ({number})"
    false = [name for name, holds in record.invariants.items() if holds is False]
    return f"false: {', '.join(f'`{name}`' for name in false)}" if false else "ok"


# --- What is left of the savings ------------------------------------------------------------------


class Saving(NamedTuple):
    """By how much a method needs less memory than full fine-tuning, as shares of the latter."""

    name: str
    architecture: str
    train_bytes: int
    """What an update needs in ExecuTorch."""
    categories: float
    """The paper's total in eager PyTorch: the sum of the categories' highs."""
    peak: float
    """Simultaneous, in eager PyTorch."""
    planned: float
    with_file: float
    """Planned, with the program's file in memory too."""
    printed: float | None
    """As the paper has it."""


def savings_of(records: Records, task: str) -> list[Saving]:
    """Return the savings of a task's cases; those that do not export are left out."""
    found = []
    for case in matrix_cases("edge", task=task):
        record, whole = records[case.id], records[f"{task}/full/{case.architecture}"]
        if case.method not in SAVING or {record.status, whole.status} != {"ok"}:
            continue
        part, all_of_it = _sizes(record), _sizes(whole)
        shares = {name: 1 - part[name] / all_of_it[name] for name in part}
        found.append(
            Saving(
                name=case.adapter_name,
                architecture=case.architecture,
                train_bytes=int(record.metrics["edge_train_bytes"].value),
                categories=shares["category_sum_bytes"],
                peak=shares["peak_bytes"],
                planned=shares["edge_train_bytes"],
                with_file=shares["with_file"],
                printed=_printed(case),
            )
        )
    return found


def _sizes(record: Record) -> dict[str, float]:
    names = ("category_sum_bytes", "peak_bytes", "edge_train_bytes", "edge_train_program_bytes")
    found = {name: float(record.metrics[name].value) for name in names}
    return {**found, "with_file": found["edge_train_bytes"] + found["edge_train_program_bytes"]}


def _printed(case: Case) -> float | None:
    """Return the saving that the paper prints: rank 4, one image of 224x224."""
    printed = json.loads(PRINTED.read_text())["memory_mib"].get(case.architecture, {})
    part, whole = (printed.get(name, {}).get("total") for name in (case.method, "full"))
    if part is None or whole is None or case.rank not in {None, 4} or case.task != "edge":
        return None
    return 1 - float(part) / float(whole)


def savings(records: Records) -> str:
    """Return what is left of each method's saving when memory is planned."""
    blocks = []
    for task in ("edge", "edge-b8"):
        rows = []
        for one in savings_of(records, task):
            shares = (one.printed, one.categories, one.peak, one.planned, one.with_file)
            cells = [_percent(share) for share in shares]
            rows.append([one.architecture, f"`{one.name}`", _mib(one.train_bytes), *cells])
        wholes = ", ".join(
            f"{name} {_mib(whole.metrics['edge_train_bytes'].value)} MiB"
            for name in _architectures(task)
            if (whole := records[f"{task}/full/{name}"]).status == "ok"
        )
        header = ["architecture", "method", "planned, MiB", "the paper", "eager, categories",
                  "eager, peak", "planned", "planned, with the file"]  # fmt: skip
        blocks.append(
            f"`{task}`, over full fine-tuning, which takes: {wholes}\n\n"
            + table(header, rows, names=2)
        )
    return "\n\n".join(blocks)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _mib(size: float) -> str:
    return f"{size / MIB:.1f}"


# --- What is in memory ----------------------------------------------------------------------------

_GROUPS: Final = {
    "param": "parameters that train",
    "grad": "gradients",
    "activation aten.convolution": "outputs of convolutions",
    "activation": "other activations",
}


def moments(records: Records) -> str:
    """Return what the plan of training holds at its fullest moment, in MiB."""
    rows = []
    for case in matrix_cases("edge", task="edge"):
        ledger = records[case.id].ledger
        wanted = case.adapter_name in {"full", "lora-r4", "dora-r4"}
        if not wanted or not isinstance(ledger, Ledger):
            continue
        sums = dict.fromkeys([*_GROUPS.values(), "the rest"], 0)
        for (_, what), size in (rows_of(ledger, "edge_train_planned_bytes") or {}).items():
            sums[_GROUPS.get(what) or _GROUPS.get(what.partition(" ")[0], "the rest")] += size
        if any(sums.values()):
            cells = [_mib(size) for size in (*sums.values(), sum(sums.values()))]
            rows.append([case.architecture, f"`{case.adapter_name}`", *cells])
    header = ["architecture", "method", *_GROUPS.values(), "the rest", "plan"]
    return table(header, rows, names=2)


# --- What fits ------------------------------------------------------------------------------------


def devices(records: Records) -> str:
    """Return which methods train on which device class: by memory, and by storage for the file."""
    rows: list[list[str]] = []
    rest: list[str] = []
    for device in load_devices():
        cells = [_fitting(records, architecture, device) for architecture in _architectures()]
        if set(cells) == {"all"}:
            rest.append(f"`{device.name}`")
        else:
            rows.append([f"`{device.name}`", *cells])
    header = ["device", *_architectures()]
    more = f"\n\nAll of them fit {', '.join(rest)}." if rest else ""
    return table(header, rows, names=len(header)) + more


def _fitting(records: Records, architecture: str, device: DeviceClass) -> str:
    fits: list[str] = []
    others: list[str] = []
    for case in matrix_cases("edge", task="edge"):
        record = records[case.id]
        if case.architecture != architecture or record.status != "ok":
            continue
        memory = record.metrics["edge_train_bytes"].value <= device.memory_bytes
        file = record.metrics["edge_train_program_bytes"].value
        storage = device.storage_bytes is None or file <= device.storage_bytes
        (fits if memory and storage else others).append(f"`{case.adapter_name}`")
    return "all" if not others else ", ".join(fits) or "none"


# --- The page -------------------------------------------------------------------------------------

TABLES: Final = {"states": states, "savings": savings, "moments": moments, "devices": devices}


def _architectures(task: str = "edge") -> list[str]:
    return list(dict.fromkeys(case.architecture for case in matrix_cases("edge", task=task)))


def recorded(run: str | None) -> Records:
    """Return the records of the edge matrix; end with the command if one is missing."""
    found = read_references(ROOT / "baselines") if run is None else named_cases(ROOT, run)
    records = {name: observation.record for name, observation in found.items()}
    absent = [case.id for case in matrix_cases("edge") if case.id not in records]
    if absent:
        sys.exit(
            f"{len(absent)} cases have no record, such as {absent[0]}. Make them with `tox run -e "
            "bench-edge -- -n 2`, and accept the run or name it with --run."
        )
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, write or check the tables; return the exit code."""
    parser = option_parser(__doc__, TABLES)
    parser.add_argument("--run", help="a run file instead of the accepted records")
    chosen = parser.parse_args(arguments)
    records = recorded(chosen.run)
    tables = {name: partial(make, records) for name, make in TABLES.items()}
    return finish(PAGE, "edge", tables, chosen)


if __name__ == "__main__":
    sys.exit(main())
