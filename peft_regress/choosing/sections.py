"""The answer of `choose` as a document and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peft_regress.choosing.candidates import Answer
from peft_regress.choosing.ranking import (
    Candidate,
    difference,
    of_each_method,
    rank_of_no_saving,
    ties,
)
from peft_regress.devices import ALLOCATOR
from peft_regress.metrics import Unit, format_value
from peft_regress.report.document import Block, Line, Listing, Section
from peft_regress.report.layout import Row, Table
from peft_regress.text import clean

_UNITS: Mapping[str, Unit] = {"memory": "byte", "update": "flop", "ship": "byte", "storage": "byte"}
_WORDS = {"memory": "memory", "update": "update", "ship": "to ship", "storage": "storage"}


def answer_sections(answer: Answer) -> list[Section]:
    """Return the recommendation, what fits, what does not, and what was not tried."""
    shown = of_each_method(answer.order)
    known, unknown = (
        [one for one in shown if bool(one.scores) is wanted] for wanted in (True, False)
    )
    missing = [one for one in answer.candidates if one.lacks]
    parts: dict[str, tuple[Block, ...]] = {
        "What fits, the best first:": (_fitting(known, answer),) if known else (),
        "What fits, by cost alone:": (_fitting(unknown, answer),) if unknown else (),
        "What would fit:": answer.hints,
        "What does not fit:": (_missing(answer, missing),) if missing else (),
        "Over full fine-tuning:": tuple(_saving_lines(answer)),
        "Does not work on this network:": _reasons(answer.refused),
        "Could not be trained:": _reasons(answer.untrained),
        "To paste:": (Listing(answer.code, "python"),) if answer.code else (),
        "Not tried for lack of time:": (", ".join(answer.untried),) if answer.untried else (),
    }
    return [_top(answer), *(Section(title=name, body=body) for name, body in parts.items() if body)]


def _reasons(why: Mapping[str, str]) -> tuple[Line, ...]:
    lines = (f"{clean(name)}: {clean(reason)}" for name, reason in why.items())
    return tuple(Line(line, most_lines=1) for line in lines)


def _top(answer: Answer) -> Section:
    """Return what to take, and what that rests on."""
    order, device = answer.order, answer.limits.device
    on = "" if device is None else f" on {device.name}"
    taken = f"take {order[0].name}" if order else "nothing fits"
    scores = "There is no evidence of accuracy here, so cost alone decides, memory first."
    if answer.scored_by:
        scores = f"Scores: {answer.scored_by}"
    return Section(
        title=f"{clean(answer.subject.name)}{on}: {taken}",
        body=(*([_recommendation(answer, order)] if order else []), _limits(answer), scores),
        level=2,
    )


def _limits(answer: Answer) -> str:
    limits, device = answer.limits, answer.limits.device
    shown = []
    for name, unit in _UNITS.items():
        with_peft, without = (getattr(limits.of(method), name) for method in ("lora", "head"))
        if with_peft is not None:
            amount = f"{_WORDS[name]} {format_value(with_peft, unit)}"
            if with_peft != without:
                amount += f" with PEFT, {format_value(without, unit)} without"
            shown.append(amount)
    text = f"Limits: {'; '.join(shown)}"
    if device is not None and limits.memory is None:
        whole = format_value(device.memory_bytes, "byte")
        process = f" to a process with {ALLOCATOR}" if limits.runtime == "eager" else ""
        text += f". The system and the runtime leave that of {whole}{process} (docs/devices.md)"
    return text


def _recommendation(answer: Answer, order: Sequence[Candidate]) -> str:
    first = order[0]
    text = f"{first.name}: {why(first, answer.full, unit=answer.unit)}"
    others = [one.name for one in ties(order) if one is not first]
    if others:
        text += f"; ties with {', '.join(others)} within the noise of the seeds, and takes least"
    return text


def why(one: Candidate, full: Candidate | None, *, unit: Unit = "fraction") -> str:
    """Return how a candidate compares with full fine-tuning: in its score, and in memory.

    unit: of the scores; differences of fractions are in points.
    """
    parts = []
    if not one.scores:
        parts.append("no evidence of accuracy")
    elif full is not None and full.scores and one is not full:
        found = difference(one.scores, full.scores)
        noise = "within" if found.is_noise else "beyond"
        side = "below" if found.mean < 0 else "above"
        size, name, form = (100, " points", ".1f") if unit == "fraction" else (1, "", ".3g")
        shown, margin = (f"{size * value:{form}}" for value in (abs(found.mean), found.margin))
        parts.append(f"{shown}{name} {side} full ({noise} noise, +- {margin})")
    if full is not None and one is not full:
        parts.append(f"{one.costs.memory / full.costs.memory:.2f} of full's memory")
    return ", ".join(parts) or "full fine-tuning"


def _fitting(shown: Sequence[Candidate], answer: Answer) -> Table:
    full, unit = answer.full, answer.unit
    rows = tuple(
        Row(
            cells=(
                one.name,
                *_costs(one),
                "" if one.largest_batch is None else f"{one.largest_batch:,}",
                format_value(one.score, unit) if one.scores else "",
            ),
            notes=(why(one, full, unit=unit),) if one.scores and one is not full else (),
        )
        for one in shown
    )
    headings = ("method", "memory", "update", "ship", "batch up to", "score")
    return Table(headings=headings, rows=rows, numbers=(1, 2, 3, 4, 5))


def _costs(one: Candidate) -> tuple[str, ...]:
    names = ("memory", "update", "ship")
    return tuple(format_value(getattr(one.costs, name), _UNITS[name]) for name in names)


def _missing(answer: Answer, missing: Sequence[Candidate]) -> Table:
    fitting = {one.method for one in answer.order}
    heads = [name for name in ("head", "bn_head") if name in fitting]
    rows = []
    for one in missing:
        lacks = ", ".join(
            f"{format_value(size, _UNITS[name])} ({size:,}) of {_WORDS[name]}"
            for name, size in one.lacks.items()
        )
        if one.largest_batch:
            remedy = f"a batch of {one.largest_batch}"
        elif one.method in fitting:
            remedy = "a lower rank"
        else:
            remedy = f"{heads[0]} instead" if heads else ""
        rows.append(Row(cells=(one.name, *_costs(one), lacks, remedy)))
    headings = ("method", "memory", "update", "ship", "lacks", "what fits")
    return Table(headings=headings, rows=tuple(rows), numbers=(1, 2, 3), droppable=(3, 2))


def _saving_lines(answer: Answer) -> Iterator[str]:
    """Yield up to which rank a method saves memory and FLOPs."""
    full = answer.full
    if full is None:
        return
    for cost, words in (("memory", "memory"), ("update", "FLOPs")):
        ends = rank_of_no_saving(answer.candidates, full, cost)
        none = [name for name, rank in ends.items() if rank < 1]
        some = [f"{name} up to rank {int(rank)}" for name, rank in ends.items() if rank >= 1]
        if some:
            yield f"{words} saved: {', '.join(some)}"
        if none:
            yield f"no {words} saved at any rank: {', '.join(none)}"


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for `--format json`; bytes, FLOPs, scores as their author counts them."""
    full, order = answer.full, answer.order
    position = {one.name: at for at, one in enumerate(order, 1)}

    def encoded(one: Candidate) -> dict[str, Any]:
        to_full = None
        if one.scores and full is not None and full.scores:
            found = difference(one.scores, full.scores)
            to_full = {"mean": found.mean, "margin": found.margin if len(one.scores) > 1 else None}
        return {
            "name": one.name,
            "method": one.method,
            "rank": one.rank,
            "position": position.get(one.name),
            "costs": one.costs._asdict(),
            "largest_batch": one.largest_batch,
            "lacks": dict(one.lacks),
            "scores": list(one.scores),
            "to_full": to_full,
            "why": why(one, full, unit=answer.unit),
        }

    device = answer.limits.device
    return {
        "subject": answer.subject.name,
        "device": None if device is None else device.name,
        "runtime": answer.limits.runtime,
        "recommended": order[0].name if order else None,
        "scores_from": answer.scored_by or None,
        "candidates": [encoded(one) for one in answer.candidates],
        "saves_up_to_rank": {
            cost: {} if full is None else rank_of_no_saving(answer.candidates, full, cost)
            for cost in ("memory", "update")
        },
        "hints": list(answer.hints),
        "refused": dict(answer.refused),
        "not_tried": list(answer.untried),
        "not_trained": dict(answer.untrained),
        "code": answer.code or None,
        "exit_code": answer.exit_code,
    }
