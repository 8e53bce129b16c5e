"""The entries of a page, and the environments that they were measured in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peft_regress.baselines.lines import Entry
from peft_regress.report.page.case_lines import clip
from peft_regress.runs.schema import MIXED_MACHINES


def environments_of(
    entries: Sequence[Entry],
) -> tuple[list[int], list[Mapping[str, str | None]]]:
    """Return each entry's environment by its index, the first environment, then differences."""
    found: dict[int, int] = {}
    distinct: list[Mapping[str, str]] = []
    indices = []
    for entry in entries:
        environment = entry.run.environment
        if id(environment) not in found:
            if environment not in distinct:
                distinct.append(environment)
            found[id(environment)] = distinct.index(environment)
        indices.append(found[id(environment)])
    if not distinct:
        return [], []
    first = distinct[0]
    differences = [
        {
            name: other.get(name)
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        }
        for other in distinct[1:]
    ]
    return indices, [first, *differences]


def encode_entry(entry: Entry, environment: int) -> dict[str, Any]:
    """Return what the page knows of an entry; `environment` is the number of its environment."""
    run, machine = entry.run, entry.run.machine
    return {
        "name": entry.name,
        "date": entry.date,
        "role": entry.role,
        "reason": clip(run.accepted.reason) if run.accepted else "",
        "machine": (
            f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads, "
            f"{machine.instruction_set}"
        ),
        # Times are compared only on one machine.
        "machine_digest": None if machine.digest == MIXED_MACHINES else machine.digest,
        "environment": environment,
        "complete": run.selection.complete,
        "narrowed_by": run.selection.narrowed_by,
    }
