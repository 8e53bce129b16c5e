"""The answer of `choose` as a document and as JSON."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from peft_regress.catalogue.evidence import FULL
from peft_regress.choosing.candidates import Answer
from peft_regress.choosing.ranking import COST_UNITS, Candidate, difference
from peft_regress.metrics import Unit, format_value
from peft_regress.project.devices import ALLOCATOR
from peft_regress.report.document import Block, Line, Listing, Section
from peft_regress.report.layout import Row, Table
from peft_regress.text import clean

_LEAN: Final = (
    "from peft_regress import lean\n"
    "lean(model, batch, loss=loss)  # the adapted model in its mode; loss(model, batch)"
)
_COSTS: Final = ("update", "memory", "no lean", "ship")
_WORDS = {"memory": "memory", "update": "update", "ship": "to ship", "storage": "storage"}


def answer_sections(answer: Answer) -> list[Section]:
    """Return the recommendation, what fits, what does not, and what was not tried."""
    known = [one for one in answer.order if one.scores]
    unknown = [one for one in answer.order if not one.scores]
    missing = [one for one in answer.candidates if one.lacks]
    stopped = answer.study.stopped if answer.study else {}
    is_lean = any(one.plain_memory is not None for one in answer.candidates)
    parts: dict[str, tuple[Block, ...]] = {
        "What fits, the best first:": (_fitting(known, answer),) if known else (),
        "What fits, by cost alone:": (_fitting(unknown, answer),) if unknown else (),
        "What would fit:": answer.hints,
        "What does not fit:": (_missing(answer, missing),) if missing else (),
        "Does not work on this network:": _reasons(answer.refused),
        "Could not be trained:": _reasons(answer.untrained),
        "Stopped, since clearly worse when its rate was chosen:": tuple(
            f"{name}: {format_value(score, answer.unit)}" for name, score in stopped.items()
        ),
        "To add, for what has a memory with no lean:": (Listing(_LEAN, "python"),) * is_lean,
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
    taken = "nothing fits"
    if order:
        name = order[0].name
        taken = f"{name} is the cheapest" if answer.problem else f"take {name}"
    advice = _recommendation(answer, order) if order else ()
    return Section(
        title=f"{clean(answer.subject.name)}{on}: {taken}",
        body=(*advice, _limits(answer), *_evidence(answer)),
        level=2,
    )


def _evidence(answer: Answer) -> Iterator[str]:
    """Yield what the scores are of, how full fine-tuning learned, or why there are none."""
    study, unit = answer.study, answer.unit
    if answer.problem:
        yield f"No advice on accuracy: {answer.problem}. So FLOPs alone decide"
    if study is None:
        return
    full = study.methods.get(FULL)
    guessing = "" if study.chance is None else f", guessing {format_value(study.chance, unit)}"
    yield (
        f"Scores: {study.images}, batch {study.batch}, {study.steps:,} steps"
        f"{f', {len(full.final)} seeds' if full else ''}, each method at its best rate; untrained "
        f"{format_value(study.untrained, unit)}{guessing}"
    )
    curve = (f"{format_value(score, unit)} after {at:,}" for at, score in study.curve.items())
    yield f"Full fine-tuning by steps: {', '.join(curve) or 'not trained'}"


def _limits(answer: Answer) -> str:
    limits, device = answer.limits, answer.limits.device
    shown = []
    for name, unit in COST_UNITS.items():
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


def _recommendation(answer: Answer, order: Sequence[Candidate]) -> Iterator[str]:
    first, ranking, margin = order[0], answer.ranking, f"{answer.points:g} points"
    text = f"{first.name}: {', '.join(_against_full(first, answer)) or 'the best score'}"
    equal = [one.name for one in order if ranking.is_equal(one) and one is not first]
    if equal:
        text += f"; equals {', '.join(equal)} within {margin}, and takes less"
    yield text
    unclear = [one.name for one in order if ranking.is_unclear(one)]
    if unclear:
        yield f"Cannot tell whether as good within {margin}, add seeds: {', '.join(unclear)}"


def _against_full(one: Candidate, answer: Answer) -> list[str]:
    """Return how a candidate compares with full fine-tuning: in its score, memory and FLOPs."""
    full = answer.full
    if full is None or one is full:
        return []
    parts = [] if one.scores else ["no evidence of accuracy"]
    if one.scores and full.scores:
        name = " points" if answer.unit == "fraction" else ""
        parts.append(f"{_points(one, full, answer.unit)}{name} to full")
    memory = one.costs.memory / full.costs.memory
    update = one.costs.update / full.costs.update
    return [*parts, f"{memory:.2f} of its memory, {update:.2f} of its FLOPs"]


def _points(one: Candidate, other: Candidate, unit: Unit) -> str:
    """Return a difference with half of its interval; of fractions in points."""
    found = difference(one.scores, other.scores)
    size, form = (100, ".1f") if unit == "fraction" else (1, ".3g")
    return f"{size * found.mean:+{form}} +- {size * found.half:{form}}"


def _fitting(shown: Sequence[Candidate], answer: Answer) -> Table:
    full, rows = answer.full, []
    for one in shown:
        batch = "" if one.largest_batch is None else f"{one.largest_batch:,}"
        cells = [one.name, *_costs(one), batch]
        if one.scores:
            to_full = _points(one, full, answer.unit) if full and full is not one else ""
            score = format_value(one.score, answer.unit)
            cells += [score, to_full, answer.ranking.standing(one)]
        rows.append(Row.of(*cells))
    of_scores = ("score", "to full", "") if shown[0].scores else ()
    headings = ("method", *_COSTS, "batch up to", *of_scores)
    return Table(headings=headings, rows=tuple(rows), numbers=tuple(range(1, len(headings))))


def _costs(one: Candidate) -> tuple[str, ...]:
    sizes = (format_value(size, COST_UNITS[name]) for name, size in one.costs._asdict().items())
    update, memory, ship, _ = sizes
    plain = "" if one.plain_memory is None else format_value(one.plain_memory, "byte")
    return update, memory, plain, ship


def _missing(answer: Answer, missing: Sequence[Candidate]) -> Table:
    fitting = {one.method for one in answer.order}
    heads = [name for name in ("head", "bn_head") if name in fitting]
    rows = []
    for one in missing:
        lacks = ", ".join(
            f"{format_value(size, COST_UNITS[name])} ({size:,}) of {_WORDS[name]}"
            for name, size in one.lacks.items()
        )
        if "memory" in one.lacks and one.room > one.costs.memory and answer.limits.memory is None:
            lacks += ", to copy images"
        if one.largest_batch:
            remedy = f"a batch of {one.largest_batch}"
        elif one.method in fitting:
            remedy = "a lower rank"
        else:
            remedy = f"{heads[0]} instead" if heads else ""
        rows.append(Row.of(one.name, *_costs(one), lacks, remedy))
    headings = ("method", *_COSTS, "lacks", "what fits")
    return Table(headings=headings, rows=tuple(rows), numbers=(1, 2, 3, 4), droppable=(4, 3, 1))


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return the answer for `--format json`; bytes, FLOPs, scores as their author counts them."""
    full, order = answer.full, answer.order
    position = {one.name: at for at, one in enumerate(order, 1)}

    def encoded(one: Candidate) -> dict[str, Any]:
        to_full = None
        if one.scores and full is not None and full.scores:
            found = difference(one.scores, full.scores)
            to_full = {"mean": found.mean, "half": found.half if len(one.scores) > 1 else None}
        return {
            **dataclasses.asdict(one),
            "name": one.name,
            "position": position.get(one.name),
            "costs": one.costs._asdict(),
            "to_full": to_full,
            "equals_best": answer.ranking.is_equal(one),
            "unclear": answer.ranking.is_unclear(one),
        }

    return {
        "subject": answer.subject.name,
        "device": answer.limits.device and answer.limits.device.name,
        "runtime": answer.limits.runtime,
        "recommended": order[0].name if order else None,
        "no_advice_on_accuracy": answer.problem or None,
        "study": msgspec.to_builtins(answer.study),
        "candidates": [encoded(one) for one in answer.ranking.candidates],
        "hints": list(answer.hints),
        "refused": dict(answer.refused),
        "not_tried": list(answer.untried),
        "not_trained": dict(answer.untrained),
        "code": answer.code or None,
        "exit_code": answer.exit_code,
    }
