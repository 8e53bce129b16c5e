"""Judge the outputs of both sides, by network and number type. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

from peft_fuzz.checklist.rows import (
    Detail,
    Row,
    Verdict,
    grouped,
    joined,
    percent,
    short,
    worst_of,
)
from peft_fuzz.checklist.running import Difference, Result
from peft_fuzz.checklist.situations import PARTS, Examined, Situation
from peft_regress.text import count_of

ATOL: Final = 1e-4
"""The protocol's bound on an output, which is of the order of 1 in every network here."""
HALF_BOUNDS: Final = {"float16": 0.01, "bfloat16": 0.05}
"""Bounds on an output in half precision, as a share of the largest output. Seen, of LoRA and its
variants on the small networks: a half-precision output differs from float32's by up to 0.005 and
0.039, a merged one from an unmerged one by up to 0.003 and 0.035. A branch that computes the same
in another order may differ by as much; one that computes in the same order differs by 0."""


VISIBLE: Final = 2
"""How many times the bound an adapter must change an output at least, for the output to be judged.
The adapters are filled until they change it by a fifth, which is four times the widest bound."""


class Part(NamedTuple):
    """One function of one situation: what was compared, or why not."""

    situation: Situation
    name: str
    verdict: Verdict | Literal["unsupported", "gained"]
    share: float = 0.0
    """The difference in multiples of the bound."""
    apart: float = 0.0
    bases: float = 0.0
    branches: float = 0.0
    problem: str = ""

    @property
    def is_apart(self) -> bool:
        """Whether both sides gave outputs, and they differ."""
        return self.verdict == "out of bounds" and not self.problem


def parts_of(result: Result) -> Iterator[Part]:
    """Judge each output of one situation."""
    return (_part(result, name) for name in PARTS)


def _part(result: Result, name: str) -> Part:
    part = partial(Part, result.situation, name)
    base, branch = result.base, result.branch
    if isinstance(base, str):
        return part("not measured", problem=f"the base gave no answer: {base}")
    if base.unavailable:
        return part("not measured", problem=f"this CPU cannot compute it: {base.unavailable}")
    own = _failure(base, name)
    if isinstance(branch, str):
        problem = f"the branch gave no answer: {branch}"
        return part("not measured" if own else "out of bounds", problem=problem)
    others = "" if branch is None else _failure(branch, name)
    if own:
        return part("unsupported" if others else "gained", problem=own)
    if others:
        return part("out of bounds", problem=f"the branch fails: {others}")
    return _compared(part, result.situation.dtype, result.found.get(name), base.effect)


def _compared(
    part: Callable[..., Part], dtype: str, found: Difference | None, effect: float
) -> Part:
    if found is None or not math.isfinite(found.largest_base):
        return part("not measured", problem="the base gives no finite output")
    bound, apart, limit = ATOL, found.absolute, ATOL
    if dtype in HALF_BOUNDS:
        bound, apart = HALF_BOUNDS[dtype], found.relative
        limit = bound * found.largest_base
    numbers = (apart / bound, apart, found.largest_base, found.largest_branch)
    if not apart <= bound:  # also for NaN
        return part("out of bounds", *numbers)
    if not effect > VISIBLE * limit:  # also for NaN
        problem = (
            f"not judged: the adapter itself changes outputs by {short(effect)}, which the "
            f"bound of {short(limit)} hides"
        )
        return part("not measured", *numbers, problem)
    return part("ok", *numbers)


def _failure(side: Examined, name: str) -> str:
    """Return why a side has no output of this name; empty if it has one."""
    before = ("merging",) if PARTS[name] == "unmerging" else ()
    return side.failure_at("adapting", "loading", *before, PARTS[name])


def output_rows(parts: Sequence[Part]) -> Iterator[Row]:
    """Yield a row for each network and number type that was compared."""
    compared = (part for part in parts if part.verdict not in {"unsupported", "gained"})
    for place, members in grouped(compared, lambda part: part.situation.place).items():
        worst = max(members, key=lambda part: math.inf if math.isnan(part.share) else part.share)
        dtype = worst.situation.dtype
        shown = percent if dtype in HALF_BOUNDS else short
        numbers = (short(worst.bases), short(worst.branches), shown(worst.apart))
        base, branch, difference = numbers if any(part.bases for part in members) else ("", "", "")
        details = [
            Detail(f"{place} ({joined(one.situation.label for one in found)})", problem)
            for problem, found in grouped(members, lambda part: part.problem).items()
            if problem
        ]
        count = sum(part.is_apart for part in members)
        if count:
            most = f"{worst.situation.label}, {worst.name}, by {shown(worst.apart)}"
            said = f"{count} of {count_of(len(members), 'output')} differ, most {most}"
            details.insert(0, Detail(place, said))
        yield Row(
            about="outputs",
            what=place,
            configurations=len({part.situation.label for part in members}),
            base=base,
            branch=branch,
            difference=difference,
            bound=shown(HALF_BOUNDS.get(dtype, ATOL)),
            verdict=worst_of({part.verdict for part in members}),
            details=tuple(details),
        )


def listed(parts: Sequence[Part], verdict: str) -> Iterator[Detail]:
    """Yield the networks and configurations of a verdict, each problem once."""
    chosen = (
        part
        for part in parts
        # What cannot be wrapped cannot be merged or loaded again either: named once.
        if part.verdict == verdict
        and (part.name == "unmerged" or part.problem.startswith(PARTS[part.name]))
    )
    places = grouped(chosen, lambda part: (part.situation.layer, part.problem))
    for (layer, problem), found in places.items():
        yield Detail(f"{layer} ({joined(part.situation.label for part in found)})", problem)
