"""What the page's plots and forms are made of, as one JSON value: numbers with their texts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from importlib.metadata import version
from typing import Any, Final

import msgspec

from peft_regress.gate.budget_use import step_runtime
from peft_regress.metrics import BATCH_SUFFIX, format_value, unit_steps
from peft_regress.project.budgets import UNITS
from peft_regress.project.devices import RUNTIME_BYTES, DeviceClass, room
from peft_regress.report.page.content import Content, hold, line_of, method_words, number
from peft_regress.report.page.plots import costs_of
from peft_regress.report.sentences import outcome_line
from peft_regress.report.verdict.next_steps import compare_command, quoted, storage_words
from peft_regress.report.verdict.sections import style_of
from peft_regress.report.verdict.to_json import encode_verdict
from peft_regress.runs.schema import OUTPUT_SCHEMA_VERSION
from peft_regress.text import clean

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
            "style": style_of(comparison),
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
        "name": entry.name,
        "label": f"{clean(entry.name)}{role}",
        "date": entry.date,
        "day": entry.day,
        "word": quoted(entry.name),
        "role": entry.role,
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
