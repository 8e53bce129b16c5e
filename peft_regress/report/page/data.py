"""What the page's plots and forms are made of, as one JSON value: numbers with their texts.

Plots show what cases cost and gain: which of them no other one beats.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec

from peft_regress.gate.budget_use import UPDATE, needs_of, step_runtime
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Unit, format_value, unit_steps
from peft_regress.project.budgets import UNITS
from peft_regress.project.devices import RUNTIME_BYTES, DeviceClass, room
from peft_regress.report.document import CaseId, Line, Section
from peft_regress.report.html import HtmlWriter
from peft_regress.report.layout import STYLE_OF_EXIT, Row, Table
from peft_regress.report.page.content import (
    ABSENT,
    Content,
    gain_name,
    hold,
    line_of,
    method_words,
    number,
)
from peft_regress.report.results import common_batch, pareto_front
from peft_regress.report.sentences import outcome_line
from peft_regress.report.verdict.next_steps import compare_command, quoted, storage_words
from peft_regress.report.verdict.to_json import encode_verdict, fields
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION, Record
from peft_regress.text import clean, count_of

_MOST_CHARACTERS: Final = 2000


def page_data(content: Content) -> dict[str, Any]:
    """Return the page's data: entries, metrics, each case with its lines, the newest verdict."""
    return shared_data(content) | {"cases": [encode_case(content, one) for one in content.cases]}


def shared_data(content: Content) -> dict[str, Any]:
    """Return the page's data without the cases."""
    verdict = None
    if content.newest is not None:
        index, comparison = content.newest
        verdict = {
            "new": index,
            "outcome": outcome_line(comparison),
            "style": STYLE_OF_EXIT[comparison.lenient_exit_code],
            "command": compare_command(comparison.invocation),
            **encode_verdict(comparison),
        }
    moved = Counter(name for marks in content.marks.values() for name in marks)
    return {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "peft_regress": version("peft-regress"),
        "entries": [_encode_entry(content, at) for at in range(len(content.entries))],
        "metrics": [
            {
                "name": name,
                **dataclasses.asdict(spec),
                "label": clean(name.removesuffix(BATCH_SUFFIX))
                + (", batch 32" if name.endswith(BATCH_SUFFIX) else ""),
                "steps": unit_steps(spec.unit),
                "moved": moved[name],
            }
            for name, spec in content.specs.items()
        ],
        "devices": [_encode_device(device) for device in content.devices],
        "units": UNITS,
        "verdict": verdict,
        "suite": content.typed.suite,
        "storage": "".join(f" {word}" for word in storage_words(content.typed)),
    }


def _encode_entry(content: Content, index: int) -> dict[str, Any]:
    entry = content.entries[index]
    run = entry.run
    role = "" if entry.role == "baseline" else f" ({entry.role})"
    return {
        **fields(entry, "name", "date", "day", "role"),
        "label": f"{clean(entry.name)}{role}",
        "word": quoted(entry.name),
        "reason": _clip(run.accepted.reason) if run.accepted else "",
        "environment": dict(run.environment),
    }


def _encode_device(device: DeviceClass) -> dict[str, Any]:
    storage = device.storage_bytes
    rooms = {runtime: room(device, runtime) for runtime in RUNTIME_BYTES}
    return {
        **msgspec.to_builtins(device),
        "label": f"{clean(device.title)} · {format_value(device.memory_bytes, 'byte')}",
        "ram": rooms,
        "storage": storage,
        "shown": {
            "ram": format_value(rooms["eager"], "byte"),
            "storage": None if storage is None else format_value(storage, "byte"),
        },
    }


def encode_case(content: Content, name: str) -> dict[str, Any]:
    """Return a case with its values and its marks over the entries, as they are shown too."""
    now, present, records = content.now[name], content.present[name], content.cases[name]
    indices = {metric: index for index, metric in enumerate(content.specs)}
    states = {
        at: _clip(record.status_text) if at == present else record.status
        for at, record in records.items()
    }
    return {
        "id": name,
        **msgspec.to_builtins(now.case),
        "name": method_words(now.case),
        "current": present,
        "status": hold(states, len(content.entries) - 1)._asdict(),
        "state": content.state_of(name),
        "ok": now.status == "ok",
        "failure": "" if now.status == "ok" else now.status,
        "verdict": content.verdicts.get(name),
        "runtime": step_runtime(now),
        "gain": content.gains.get(name),
        "costs": costs_of(now),
        "lines": [
            {
                "metric": indices[metric],
                **held._asdict(),
                "texts": [number(one, content.specs[metric].unit) for one in held.values],
                **line_of(metric, now, content.specs[metric]),
            }
            for metric, held in content.held(name).items()
        ],
        "marks": [
            {"metric": indices[metric], **mark._asdict(), "text": mark.words(content.specs[metric])}
            for metric, marks in content.marks[name].items()
            for mark in marks
        ],
    }


def _clip(text: str) -> str:
    """Return the beginning of a text, as much as a page shows of any."""
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


class Cost(NamedTuple):
    """What plots and limits compare cases by."""

    name: str
    label: str
    unit: Unit
    parts: tuple[str, ...]
    """Metrics that add up to it: without one of them a case would seem to be cheap."""
    has_batches: bool = False

    def of(self, record: Record, suffix: str) -> float | None:
        """Return the cost of a case; None if a part of it was not measured."""
        batch = suffix if self.has_batches else ""
        return record.value_of(*(name + batch for name in self.parts))


COSTS: Final = (
    Cost("memory", "peak memory", "byte", ("peak_bytes",), has_batches=True),
    Cost("flops", "FLOPs of one update", "flop", UPDATE, has_batches=True),
    Cost("trained", "trained parameters", "count", ("trainable_params",)),
    Cost("ship", "size to ship", "byte", ("adapter_bytes",)),
)
_SUFFIXES: Final = {"1": "", "32": BATCH_SUFFIX}


def costs_of(record: Record) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `{cost: {batch: {value, text}}}` of a case, as far as it was measured."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    units: dict[str, Unit] = {cost.name: cost.unit for cost in COSTS}
    for batch, suffix in _SUFFIXES.items() if record.status == "ok" else ():
        needs = needs_of(record, suffix)
        values = {cost.name: cost.of(record, suffix) for cost in COSTS}
        for name, value in (values | {"ram": needs["memory"], "storage": needs["storage"]}).items():
            if value is not None:
                text = number(value, units.get(name, "byte"))
                found.setdefault(name, {})[batch] = {"value": value, "text": text}
    return found


def batches_of(content: Content) -> list[dict[str, str]]:
    """Return the batches that costs are of: that of costs without a suffix, and 32."""
    batch = common_batch([record for record in content.now.values() if record.status == "ok"])
    words = "at each case's own batch" if batch is None else f"at batch {batch}"
    label = "each case's own" if batch is None else str(batch)
    found = [{"value": "1", "label": label, "words": words, "suffix": ""}]
    if any(name.endswith(BATCH_SUFFIX) for name in content.specs):
        found.append({"value": "32", "label": "32", "words": "at batch 32", "suffix": BATCH_SUFFIX})
    return found


def tradeoffs(content: Content, writer: HtmlWriter) -> dict[str, dict[str, Any]]:
    """Return the plots of each task, cost and batch, one for each architecture with a point."""
    batches, found = batches_of(content), {}
    for task in content.in_order("task"):
        of_task = {name: one for name, one in content.now.items() if one.case.task == task}
        gain = gain_name(of_task.values())
        known = [name for name in of_task if content.gains.get(name, {}).get("name") == gain]
        for cost in COSTS:
            for batch in batches if cost.has_batches else batches[:1]:
                every = {name: cost.of(of_task[name], batch["suffix"]) for name in known}
                points = {name: value for name, value in every.items() if value is not None}
                found[f"{task} {cost.name} {batch['value']}"] = {
                    "label": f"{cost.label} {batch['words']}" if cost.has_batches else cost.label,
                    "steps": unit_steps(cost.unit),
                    "gain": gain,
                    "is_share": METRICS[gain].unit == "fraction",
                    "plots": [*_plots(content, cost, writer, points)],
                    "lost": len(of_task) - len(points),
                }
    return found


def _plots(
    content: Content, cost: Cost, writer: HtmlWriter, costs: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    for place in content.in_order("architecture"):
        cases = {name: content.now[name].case for name in costs}
        here = {n: costs[n] for n, case in cases.items() if case.architecture == place}
        standard = {n: here[n] for n in here if cases[n].method in content.standard_methods}
        if here:
            yield {
                "architecture": place,
                "points": [*here],
                "standard": _front(content, cost, writer, standard),
                "all": _front(content, cost, writer, here),
            }


def _front(
    content: Content, cost: Cost, writer: HtmlWriter, costs: Mapping[str, float]
) -> dict[str, Any] | None:
    """Return the front of some cases by their costs, in words and as a table."""
    if not costs:
        return None
    cases = {name: content.now[name].case for name in costs}
    gains = {name: content.gains[name] for name in costs}
    front = pareto_front(costs, lambda name: costs[name], lambda name: gains[name]["now"])
    texts = {n: f"{gains[n]['text']}, {format_value(costs[n], cost.unit)}" for n in front}
    ends = " to ".join(f"{method_words(cases[n])} ({texts[n]})" for n in (front[0], front[-1]))
    gain = ", ".join(sorted({one["words"] for one in gains.values()}))
    title = f"{gain} against {cost.label} on {clean(cases[front[0]].architecture)}"
    pairings = f"{count_of(len(costs), 'pairing')}, {len(front)} on the Pareto front"
    lines = tuple(Line((CaseId(method_words(cases[one]), one), texts[one])) for one in front)
    rows = tuple(
        Row.of(
            CaseId(clean(name), name),
            number(costs[name], cost.unit),
            gains[name]["text"],
            gains[name].get("seeds_text", ABSENT),
            "yes" if name in front else "no",
        )
        for name in sorted(costs, key=lambda name: costs[name])
    )
    headings = ("case", cost.label, gain, "seeds, lowest to highest", "on the front")
    table = Table(headings=headings, rows=rows, numbers=(1, 2, 3), caption=title)
    document = [
        Section(title="On the Pareto front, from the cheapest", level=3, body=lines),
        Section(title="All of its numbers", folded=True, body=(table,)),
    ]
    label = f"{title}: {pairings}, from {ends}."
    return {"gain": gain, "front": front, "label": label, "html": writer.document(document)}
