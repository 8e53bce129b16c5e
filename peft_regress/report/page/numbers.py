"""The numbers of the page's plots and forms, with the text of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from peft_regress.devices import DeviceClass
from peft_regress.metrics import BATCH_SUFFIX, MetricSpec, format_value, unit_steps
from peft_regress.report.document import CaseId, Code
from peft_regress.report.html import HtmlWriter
from peft_regress.report.page.data import Content
from peft_regress.report.page.lines import Mark
from peft_regress.report.page.tradeoffs import costs_of, gain_of, tradeoffs
from peft_regress.report.page.words import (
    ABSENT,
    entry_words,
    failure_words,
    mark_words,
    method_words,
    number,
    order_words,
    packages_words,
    state_of,
    what_badge,
)
from peft_regress.report.results import common_batch
from peft_regress.report.sentences import shown_change
from peft_regress.report.table import Row, Table
from peft_regress.report.verdict.next_steps import quoted
from peft_regress.text import clean


def plot_numbers(content: Content, data: dict[str, Any], writer: HtmlWriter) -> dict[str, Any]:
    """Return what plots and forms need, made of `page_data`."""
    batches = _batches(content)
    frame, rows = _mark_rows(content, writer)
    first = next(iter(content.orders), "date")
    moved = Counter(metric for lines in content.lines.values() for metric in lines.marks[first])
    return {
        "version": data["peft_regress"],
        "batches": batches,
        "tasks": content.in_order("task"),
        "architectures": content.in_order("architecture"),
        "standard": sorted(content.standard_methods),
        "initial": _largest_move(content),
        "newest": len(content.entries) - 1 if content.newest is None else content.newest[0],
        "entries": [
            {
                "name": entry.name,
                "label": clean(entry.name)
                + ("" if entry.role == "baseline" else f" ({entry.role})"),
                "day": entry_words(entry),
                "word": quoted(entry.name),
            }
            for entry in content.entries
        ],
        "orders": [
            {
                "by": by,
                "label": order_words(by),
                "entries": order,
                "names": [_entry_name(content, at, by) for at in range(len(content.entries))],
            }
            for by, order in content.orders.items()
        ],
        "metrics": [
            {
                **metric,
                "label": _metric_words(metric["name"]),
                "steps": unit_steps(metric["unit"]),
                "moved": moved[metric["name"]],
            }
            for metric in data["metrics"]
        ],
        "units": data["units"],
        "devices": [_device(device) for device in content.devices],
        "marks": frame,
        "tradeoffs": tradeoffs(content, [one["value"] for one in batches], writer),
        "cases": [_case(content, case, rows[case["id"]]) for case in data["cases"]],
    }


def _batches(content: Content) -> list[dict[str, str]]:
    """Return the batches that costs are of: that of costs without a suffix, and 32."""
    batch = common_batch([record for record in content.now.values() if record.status == "ok"])
    words = "at each case's own batch" if batch is None else f"at batch {batch}"
    label = "each case's own" if batch is None else str(batch)
    found = [{"value": "1", "label": label, "words": words, "suffix": ""}]
    if any(name.endswith(BATCH_SUFFIX) for name in content.specs):
        found.append({"value": "32", "label": "32", "words": "at batch 32", "suffix": BATCH_SUFFIX})
    return found


def _device(device: DeviceClass) -> dict[str, Any]:
    memory, storage = device.memory_bytes, device.storage_bytes
    return {
        "name": device.name,
        "label": f"{clean(device.title)} · {format_value(memory, 'byte')}",
        "ram": memory,
        "storage": storage,
        "shown": {
            "ram": format_value(memory, "byte"),
            "storage": None if storage is None else format_value(storage, "byte"),
        },
    }


def _case(content: Content, case: dict[str, Any], rows: dict[str, list[str]]) -> dict[str, Any]:
    """Return what plots and forms need of a case, with its numbers as they are shown."""
    name, record = case["id"], content.now[case["id"]]
    specs = list(content.specs.values())
    return {
        "id": name,
        **{field: case[field] for field in ("task", "method", "rank", "architecture", "status")},
        "name": clean(method_words(record.case)),
        "state": state_of(content, name),
        "ok": record.status == "ok",
        "verdict": case.get("verdict"),
        "failure": failure_words(content, name),
        "gain": gain_of(content, name),
        "costs": costs_of(record),
        "lines": [_line(line, specs[line["metric"]]) for line in case["lines"]],
        "marks": {
            by: [
                {**mark, "text": _mark_text(mark, specs[mark["metric"]]), "row": row}
                for mark, row in zip(found, rows[by], strict=True)
            ]
            for by, found in case["marks"].items()
        },
    }


def _line(line: dict[str, Any], spec: MetricSpec) -> dict[str, Any]:
    """Return a line with its texts."""
    texts = [ABSENT if one is None else format_value(one, spec.unit) for one in line["values"]]
    more = {}
    if "bound" in line:
        more["bound_text"] = _bound_words(line["bound"], spec)
    if "seeds" in line:
        more["seeds_text"] = " to ".join(format_value(seed, spec.unit) for seed in line["seeds"])
    return {**line, "text": number(line["now"], spec.unit), "texts": texts, **more}


def _mark_text(mark: dict[str, Any], spec: MetricSpec) -> str:
    return mark_words(Mark(mark["entry"], mark["what"], mark["before"], mark["change"]), spec)


def _metric_words(name: str) -> str:
    batch = ", batch 32" if name.endswith(BATCH_SUFFIX) else ""
    return clean(name.removesuffix(BATCH_SUFFIX)) + batch


def _entry_name(content: Content, index: int, by: str) -> str:
    """Return what an entry is called on an axis: its date, or its release of a package."""
    entry = content.entries[index]
    return entry_words(entry) if by == "date" else clean(entry.run.environment.get(by, "none"))


def _bound_words(bound: float, spec: MetricSpec) -> str:
    if spec.kind == "seconds":
        return f"{1 + bound:.3g} times as long or as short"
    return f"±{shown_change(bound, spec).lstrip('+')}"


def _mark_rows(content: Content, writer: HtmlWriter) -> tuple[str, dict[str, dict[str, list[str]]]]:
    """Return the frame of the table of marks, and each mark's row by case and order."""
    places: list[tuple[str, str]] = []
    rows = []
    for name, lines in content.lines.items():
        for by, found in lines.marks.items():
            for metric, marks in found.items():
                for mark in marks:
                    places.append((name, by))
                    rows.append(_mark_row(content, name, metric, mark))
    headings = (
        *("entry", "case", "what", "from", "to", "change"),
        *("what changed", "why it was accepted"),
    )
    table = Table(
        headings=headings, rows=tuple(rows), numbers=(3, 4, 5), caption="Where it changed"
    )
    frame, written = writer.parts(table)
    by_case: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (name, by), row in zip(places, written, strict=True):
        by_case[name][by].append(row)
    return frame, by_case


def _mark_row(content: Content, name: str, metric: str, mark: Mark) -> Row:
    entry, spec = content.entries[mark.entry], content.specs[metric]
    held = content.lines[name].held[metric]
    old = None if mark.before is None else held.at_entry(mark.before)
    packages = "" if mark.before is None else packages_words(content, mark.before, mark.entry)
    return Row(
        cells=(
            Code(clean(entry.name)),
            CaseId(clean(name), name),
            what_badge(mark.what),
            number(old, spec.unit),
            number(held.at_entry(mark.entry), spec.unit),
            mark_words(mark, spec),
            packages,
            clean(entry.run.accepted.reason) if entry.run.accepted else "",
        )
    )


def _largest_move(content: Content) -> dict[str, str] | None:
    """Return the case and metric with the largest change that no noise explains.

    A history starts with it: exact costs first, at batch 1 before batch 32; times last.
    """
    by = next(iter(content.orders), "date")
    found = [
        (_grade(metric, content.specs[metric]), mark.size, name, metric)
        for name, lines in content.lines.items()
        for metric, marks in lines.marks[by].items()
        for mark in marks
        if mark.what in {"worse", "better"}
    ]
    if found:
        _, _, name, metric = min(found, key=lambda one: (one[0], -one[1]))
        return {"case": name, "metric": metric}
    for name, lines in content.lines.items():
        for metric in lines.held:
            return {"case": name, "metric": "peak_bytes" if "peak_bytes" in lines.held else metric}
    return None


def _grade(metric: str, spec: MetricSpec) -> int:
    if spec.kind in {"exact", "bytes"}:
        return int(metric.endswith(BATCH_SUFFIX))
    return 3 if spec.kind == "seconds" else 2
