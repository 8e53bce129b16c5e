"""Judge what both sides gave: one row for each thing that the protocol asks for. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, TypeVar

from peft_fuzz.checklist.running import Difference, Result
from peft_fuzz.checklist.situations import PARTS, Examined, Inspected, Situation
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.text import count_of

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

Verdict = Literal["ok", "out of bounds", "not measured", "shown"]
About = Literal["outputs", "checkpoint", "configuration", "training"]


class Detail(NamedTuple):
    """Why something is out of bounds, not measured, or supported by no side, and where."""

    where: str
    said: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    about: About
    what: str
    configurations: int | None = None
    base: str = ""
    branch: str = ""
    difference: str = ""
    bound: str = ""
    verdict: Verdict
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All rows, and what the base cannot do."""

    rows: tuple[Row, ...]
    unsupported: tuple[Detail, ...] = ()

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 if a row is out of bounds; else 3 if one was not measured or there is none; else 0."""
        verdict = worst_of({row.verdict for row in self.rows})
        if verdict == "out of bounds":
            return 1
        compared = any(row.about == "outputs" and row.verdict == "ok" for row in self.rows)
        return 0 if compared and verdict == "ok" else 3


def worst_of(verdicts: Collection[str]) -> Verdict:
    """Return the worst of some verdicts; `ok` if there is no bad one."""
    if "out of bounds" in verdicts:
        return "out of bounds"
    return "not measured" if "not measured" in verdicts else "ok"


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return items by a key, in the order of their first ones."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def short(value: float) -> str:
    """Show a number with two digits."""
    return f"{value:.2g}"


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
LOSS_BOUND: Final = 1e-4
"""The protocol's bound on the loss of a training, relative. Rounding moves a loss of the networks
here by 2e-7 in every one of 8 steps."""
_OF_FILES: Final = frozenset({"peft_version", "auto_mapping"})
"""Fields that say who wrote a file, and change nothing."""


def judge(results: Sequence[Result], inspected: Sequence[Inspected]) -> Judged:
    """Return the rows of a comparison."""
    parts = [_part(result, name) for result in results for name in PARTS]
    outputs = list(output_rows(parts))
    rows = (
        *outputs,
        checkpoint_row(results, parts),
        *config_rows(inspected, outputs),
        *loss_rows(results),
    )
    refused = [
        Detail(str(result.situation), said)
        for result in results
        if (said := result.base.failure_at("training"))
    ]
    return Judged(rows=rows, unsupported=(*listed(parts), *refused))


# --- Outputs --------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One function of one situation: what was compared, or why not."""

    situation: Situation
    name: str
    verdict: Verdict | Literal["unsupported"]
    share: float = 0.0
    apart: float = 0.0
    bases: float = 0.0
    branches: float = 0.0
    problem: str = ""


def _part(result: Result, name: str) -> Part:
    part = partial(Part, result.situation, name)
    base, branch = result.sides
    if base.lost:
        return part("not measured", problem=f"the base gave no answer: {base.lost}")
    if base.unavailable:
        return part("not measured", problem=f"this CPU cannot compute it: {base.unavailable}")
    own, others = _failure(base, name), _failure(branch, name)
    if branch.lost:
        problem = f"the branch gave no answer: {branch.lost}"
        return part("not measured" if own else "out of bounds", problem=problem)
    if own:
        return part("unsupported", problem=own if others else f"{own} (the branch can)")
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
    compared = (part for part in parts if part.verdict != "unsupported")
    for place, members in grouped(compared, lambda part: part.situation.place).items():
        worst = max(members, key=lambda part: math.inf if math.isnan(part.share) else part.share)
        dtype = worst.situation.dtype
        shown = _percent if dtype in HALF_BOUNDS else short
        numbers = (short(worst.bases), short(worst.branches), shown(worst.apart))
        base, branch, difference = numbers if any(part.bases for part in members) else ("", "", "")
        details = [
            Detail(f"{place} ({_labels(found)})", problem)
            for problem, found in grouped(members, lambda part: part.problem).items()
            if problem
        ]
        count = sum(part.verdict == "out of bounds" and not part.problem for part in members)
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


def listed(parts: Sequence[Part]) -> Iterator[Detail]:
    """Yield what the base cannot do, each problem once."""
    chosen = (
        part
        for part in parts
        # What cannot be wrapped cannot be merged or loaded again either: named once.
        if part.verdict == "unsupported"
        and (part.name == "unmerged" or part.problem.startswith(PARTS[part.name]))
    )
    places = grouped(chosen, lambda part: (part.situation.layer, part.problem))
    for (layer, problem), found in places.items():
        yield Detail(f"{layer} ({_labels(found)})", problem)


def _labels(parts: Sequence[Part]) -> str:
    return ", ".join(dict.fromkeys(part.situation.label for part in parts))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


# --- The adapter: checkpoint, configuration -------------------------------------------------------


def checkpoint_row(results: Sequence[Result], parts: Sequence[Part]) -> Row:
    """Compare what each side writes: a changed layout is right where the outputs stay the same.

    These are the outputs of the branch from the file of the base, and from its own.
    """
    loaded = grouped(parts, lambda part: (id(part.situation), part.name))
    counts = [0, 0]
    changed: dict[Verdict, list[Detail]] = {"out of bounds": [], "not measured": [], "ok": []}
    for result in results:
        base, branch = result.sides
        if not base.keys or not branch.keys:
            continue
        counts[0] += len(base.keys)
        counts[1] += len(branch.keys)
        moved = _moved(base.keys, branch.keys)
        if moved:
            at = id(result.situation)
            outputs = (*loaded[at, "unmerged"], *loaded[at, "reloaded"])
            verdict = worst_of({part.verdict for part in outputs})
            if _of_other_types(base.keys, branch.keys):
                verdict = "out of bounds"  # A narrower type loses digits, a wider one costs bytes.
            changed[verdict].append(Detail(str(result.situation), moved))
    details = tuple(detail for found in changed.values() for detail in found)
    difference = f"differ in {count_of(len(details), 'checkpoint')}" if details else "none"
    if details and len(details) == len(changed["ok"]):
        difference += ", each converted while loading"
    return Row(
        about="checkpoint",
        what="names, types and shapes",
        base=count_of(counts[0], "tensor"),
        branch=count_of(counts[1], "tensor"),
        difference=difference,
        bound="equal, or converted in one type",
        verdict=worst_of({verdict for verdict, found in changed.items() if found})
        if counts[0]
        else "not measured",
        details=details,
    )


def _of_other_types(base: Mapping[str, str], branch: Mapping[str, str]) -> bool:
    return any(
        base[name].partition(" ")[0] != branch[name].partition(" ")[0]
        for name in base.keys() & branch.keys()
    )


def _moved(base: Mapping[str, str], branch: Mapping[str, str]) -> str:
    other = sorted(name for name in base.keys() & branch.keys() if base[name] != branch[name])
    found = {
        "absent": sorted(base.keys() - branch.keys()),
        "new": sorted(branch.keys() - base.keys()),
        "of another type or shape": [f"{one}: {base[one]} -> {branch[one]}" for one in other],
    }
    return "; ".join(
        f"{len(names)} {what}, such as {names[0]}" for what, names in found.items() if names
    )


def config_rows(inspected: Sequence[Inspected], outputs: Sequence[Row]) -> Iterator[Row]:
    """Yield what became of the fields of the configuration: new, removed, of another default."""
    base, branch = (
        {name: value for name, value in (side.fields or {}).items() if name not in _OF_FILES}
        for side in inspected
    )
    new = [f"{name}={branch[name]}" for name in branch if name not in base]
    gone = [name for name in base if name not in branch]
    moved = [
        f"{name}: {base[name]} -> {branch[name]}"
        for name in base
        if name in branch and base[name] != branch[name]
    ]
    is_same = all(row.verdict == "ok" for row in outputs) and bool(outputs)
    # Old checkpoints lack a new field: they were loaded with its default.
    yield Row(
        about="configuration",
        what="new fields",
        base=count_of(len(base), "field"),
        branch=count_of(len(branch), "field"),
        difference=", ".join(new) or "none",
        bound="same function",
        verdict="ok" if not new or is_same else "shown",
    )
    for what, found in (("removed fields", gone), ("changed defaults", moved)):
        verdict: Verdict = "out of bounds" if found else "ok"
        said = ", ".join(found) or "none"
        yield Row(about="configuration", what=what, difference=said, bound="none", verdict=verdict)


# --- Training -------------------------------------------------------------------------------------


def loss_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the losses of short trainings by network: the worst configuration."""
    trained = [one for one in results if one.base.losses]
    if not trained:
        yield Row(about="training", what="the base trains nothing", verdict="not measured")
    for layer, members in grouped(trained, lambda result: result.situation.layer).items():
        worst, ends = -1.0, ("", "")
        details: list[Detail] = []
        for result in members:
            base, branch = result.sides
            apart = _relative(base.losses, branch.losses)
            if branch.losses and not apart <= worst:
                worst, ends = apart, (f"{base.losses[-1]:.6f}", f"{branch.losses[-1]:.6f}")
            if not apart <= LOSS_BOUND:
                said = f"losses differ by {short(apart)}"
                if not branch.losses:
                    said = f"the branch fails: {branch.failure_at('training') or 'no losses'}"
                details.append(Detail(str(result.situation), said))
        yield Row(
            about="training",
            what=f"{layer}, {count_of(len(members[0].base.losses), 'step')}",
            configurations=len(members),
            base=ends[0],
            branch=ends[1],
            difference=short(worst) if any(ends) else "",
            bound=short(LOSS_BOUND),
            verdict="out of bounds" if details else "ok",
            details=tuple(details),
        )


def _relative(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest relative difference of two lists; infinity if they don't match."""
    if len(losses) != len(others):
        return math.inf
    floor = DEFAULT_POLICY.loss_floor * max(map(abs, (*losses, *others)), default=0.0)
    shares = [
        abs(one - other) / max(abs(one), floor) if one != other else 0.0
        for one, other in zip(losses, others, strict=True)
    ]
    return math.nan if any(map(math.isnan, shares)) else max(shares)
