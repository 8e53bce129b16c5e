"""The newest numbers of all cases, and which cases no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from peft_regress.devices import DeviceClass, load_devices
from peft_regress.gate.budgets import fits
from peft_regress.metrics import format_value
from peft_regress.report.document import Section
from peft_regress.report.results import common_batch, results
from peft_regress.report.table import Row, Table
from peft_regress.runs.schema import Record, Run
from peft_regress.text import clean, count_of

_COST = "peak_bytes"
_FITS = "cases whose update fits into the memory, and whose weights fit into the storage"
_FRONT = "best accuracy for its peak memory{} (no other case is as accurate with less)"


def overview(
    run: Run, *, sources: str, devices: Sequence[DeviceClass] | None = None
) -> list[Section | Table]:
    """Return the results, the fronts, and what fits which device.

    `sources` names the runs that the numbers come from; `devices` are by default those of the
    package.
    """
    fronts = tuple(f"{name}: {', '.join(map(_point, front))}" for name, front in _fronts(run))
    return [
        Section(title=f"{count_of(len(run.cases), 'case')}, from {clean(sources)}"),
        results(run),
        *([Section(title=f"{_front_title(run)}:", body=fronts)] if fronts else []),
        *_fits(run, load_devices() if devices is None else devices),
    ]


def _front_title(run: Run) -> str:
    batch = common_batch([record for record in run if record.status == "ok"])
    return _FRONT.format("" if batch is None else f" at batch {batch}")


def _fits(run: Run, devices: Sequence[DeviceClass]) -> Iterator[Section]:
    """Yield how many cases fit into each device, and the most accurate of them."""
    known = [
        record for record in run if any(fits(record, device) is not None for device in devices)
    ]
    if known:
        table = Table(
            headings=("device", "memory", "storage", "fit", "most accurate"),
            rows=tuple(_device_row(device, known) for device in devices),
            numbers=(1, 2, 3),
            droppable=(2, 1),
        )
        yield Section(title=f"{_FITS}:", body=(table,))


def _device_row(device: DeviceClass, known: Sequence[Record]) -> Row:
    fitting = [record for record in known if fits(record, device)]
    best = max(
        (record for record in fitting if "accuracy" in record.metrics),
        key=lambda record: record.metrics["accuracy"].value,
        default=None,
    )
    storage = device.storage_bytes
    return Row(
        cells=(
            clean(device.name),
            format_value(device.memory_bytes, "byte"),
            "any" if storage is None else format_value(storage, "byte"),
            f"{len(fitting)} of {len(known)}",
            "" if best is None else clean(best.case.id),
        )
    )


def pareto_front(records: Iterable[Record], cost: str) -> list[Record]:
    """Return the records that no other record beats, the cheapest first.

    One record beats another if it is at least as cheap and as accurate, and better in one of the
    two. Equal records are all returned; records without accuracy or without that cost are not.
    """
    known = [
        record
        for record in records
        if record.status == "ok" and {"accuracy", cost} <= record.metrics.keys()
    ]
    ordered = sorted(
        known,
        key=lambda record: (record.metrics[cost].value, -record.metrics["accuracy"].value),
    )
    front: list[Record] = []
    for record in ordered:
        best = front[-1] if front else record
        gain = record.metrics["accuracy"].value - best.metrics["accuracy"].value
        is_as_cheap = record.metrics[cost].value == best.metrics[cost].value
        if gain > 0 or (gain == 0 and is_as_cheap):
            front.append(record)
    return front


def _fronts(run: Run) -> list[tuple[str, Sequence[Record]]]:
    def group(record: Record) -> tuple[str, str]:
        return record.case.task, record.case.architecture

    grouped = groupby(sorted(run, key=group), key=group)
    fronts = [(clean(" on ".join(key[::-1])), pareto_front(found, _COST)) for key, found in grouped]
    return [(name, front) for name, front in fronts if front]


def _point(record: Record) -> str:
    case = record.case
    method = case.method if case.rank is None else f"{case.method}-r{case.rank}"
    accuracy = format_value(record.metrics["accuracy"].value, "fraction")
    return f"{clean(method)} ({accuracy}, {format_value(record.metrics[_COST].value, 'byte')})"
