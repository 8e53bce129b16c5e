"""What an exporter is, and the registry of all exporters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from peft_regress.errors import AbsentError
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from peft_regress.runs.schema import Run

_LONGEST_LIST: Final = 2000


def _omits_nothing(_: Run) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A format of another tool."""

    name: str
    """As in `peft-regress export --to NAME`."""
    write: Callable[[Run], Mapping[str, str]]
    """Returns the text by direction, or under '' if there is one file.

    A direction without metrics is absent. Raises `InputError` for a run that the tool refuses.
    """
    files: Mapping[str, str] = field(default_factory=dict)
    """The name of each file by its direction, for a tool that takes one direction in a file."""
    numbers_only: bool = False
    """Whether the format has no place for a case without metrics."""
    omitted_metrics: Callable[[Run], list[str]] = _omits_nothing
    """Returns the names of the metrics that the format has no place for."""


EXPORTERS: Final[dict[str, Exporter]] = {}
"""All exporters by name."""


def register(exporter: Exporter) -> Exporter:
    """Add an exporter. Raises `ValueError` if its name is taken."""
    if EXPORTERS.setdefault(exporter.name, exporter) is not exporter:
        msg = f"there is an exporter {exporter.name!r} already"
        raise ValueError(msg)
    return exporter


def directions() -> list[str]:
    """Return every direction that an exporter has a file for."""
    return list(dict.fromkeys(name for exporter in EXPORTERS.values() for name in exporter.files))


def left_out(exporter: Exporter, run: Run) -> Iterator[str]:
    """Yield sentences that name the cases and metrics that the format has no place for.

    Raises `AbsentError` if it has no place for any case.
    """
    absent = [name for name, record in run.cases.items() if not record.metrics]
    if exporter.numbers_only and len(absent) == len(run.cases):
        others = " and ".join(one.name for one in EXPORTERS.values() if not one.numbers_only)
        msg = f"none of {count_of(len(absent), 'case')} has a metric; --to {others} show errors"
        raise AbsentError(msg)
    if exporter.numbers_only and absent:
        yield f"left out, without a metric: {clean(' '.join(absent), longest=_LONGEST_LIST)}"
    repeating = [name for name, record in run.cases.items() if record.is_repeat]
    if exporter.numbers_only and repeating:
        shown = clean(" ".join(repeating), longest=_LONGEST_LIST)
        yield f"without accuracy, since they repeat another run: {shown}"
    names = exporter.omitted_metrics(run)
    if names:
        shown = clean(" ".join(names), longest=_LONGEST_LIST)
        yield f"left out, better neither smaller nor bigger: {shown}"


def texts_of(exporter: Exporter, run: Run, direction: str | None = None) -> dict[str, str]:
    """Return the text of each file by its name, '' if the format has one file.

    Raises `AbsentError` if there is nothing for the chosen direction.
    """
    texts = exporter.write(run)
    if direction is not None and direction not in texts:
        file = exporter.files[direction]
        msg = f"no metric here is better {direction}, and {exporter.name} refuses an empty {file}"
        raise AbsentError(msg)
    chosen = texts if direction is None else {direction: texts[direction]}
    return {exporter.files.get(name, ""): text for name, text in chosen.items()}
