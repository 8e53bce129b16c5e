"""Judge what both sides gave: one row for each thing that the protocol asks for. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final

from peft_fuzz.checklist.judge_outputs import Part, listed, output_rows, parts_of
from peft_fuzz.checklist.rows import Detail, Judged, Row, Verdict, grouped, short, worst_of
from peft_fuzz.checklist.running import Result
from peft_fuzz.checklist.situations import KNOWN_NETWORKS, Examined, Inspected
from peft_regress.gate.paired_times import Estimate
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.text import clean, count_of

LOSS_BOUND: Final = 1e-4
"""The protocol's bound on the loss of a training, relative."""
_ROUNDING_SHARE: Final = 0.1
"""How much of that bound rounding may use up in a loss that is judged. Seen on the small networks:
2e-7 in every one of 8 steps."""
_COSTS: Final = {
    "forward_flops": ("FLOPs of the forward pass", 0.0),
    "backward_flops": ("FLOPs of the backward pass", 0.0),
    "peak_bytes": ("peak bytes of a training step", DEFAULT_POLICY.bytes_bound),
}
_OF_FILES: Final = frozenset({"peft_version", "auto_mapping"})
"""Fields that say who wrote a file, and change nothing."""


def judge(
    results: Sequence[Result],
    inspected: tuple[Inspected, Inspected],
    times: Mapping[str, Estimate | str],
) -> Judged:
    """Return the rows of a comparison."""
    parts = [part for result in results for part in parts_of(result)]
    outputs = list(output_rows(parts))
    rows = (
        *outputs,
        *type_rows(results),
        checkpoint_row(results, parts),
        *config_rows(inspected, outputs),
        *loss_rows(results),
        *cost_rows(results),
        *(time_row(name, estimate) for name, estimate in times.items()),
    )
    # Where the base itself fails to train, or its step cannot be counted.
    refused = [
        Detail(str(result.situation), said)
        for stage in ("training", "cost")
        for result in results
        if (said := result.sides[0].failure_at(stage))
    ]
    effects = [result.sides[0].effect for result in results if result.found]
    return Judged(
        rows=rows,
        unsupported=(*listed(parts, "unsupported"), *refused),
        gained=tuple(listed(parts, "gained")),
        smallest_effect=min(effects, default=math.nan),
    )


# --- The adapter: types, checkpoint, configuration ------------------------------------------------


def type_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield for each half, with and without `autocast_adapter_dtype`, the types of the adapter.

    With it they are float32, else that of the base; where the base of the comparison has another
    one, such as that of LN tuning, it is right as well.
    """
    typed = [
        result
        for result in results
        if result.situation.dtype != "float32" and all(side.types for side in result.sides)
    ]
    for numbers, members in grouped(typed, lambda result: result.situation.numbers).items():
        situation = members[0].situation
        wanted = "float32" if situation.autocast else situation.dtype
        wrong = [detail for result in members for detail in _wrong(result, wanted)]
        base, branch = (_types(side) for side in zip(*(one.sides for one in members), strict=True))
        yield Row(
            about="types",
            what=numbers,
            configurations=len(members),
            base=base,
            branch=branch,
            difference=f"in {count_of(len(wrong), 'place')}" if wrong else "none",
            bound=f"{wanted}, or as the base",
            verdict="out of bounds" if wrong else "ok",
            details=tuple(wrong),
        )


def _types(sides: Sequence[Examined]) -> str:
    stages = [types for side in sides for types in side.types.values()]
    return ", ".join(sorted({found for types in stages for found in types.values()}))


def _wrong(result: Result, wanted: str) -> Iterator[Detail]:
    base, branch = result.sides
    for stage, types in branch.types.items():
        usual = base.types.get(stage, {})
        names = [name for name, found in types.items() if found not in {wanted, usual.get(name)}]
        if names:
            said = (
                f"{stage}: {count_of(len(names), 'parameter')} of the adapter in another type, "
                f"such as {names[0]} in {types[names[0]]}"
            )
            yield Detail(str(result.situation), said)


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
        moved = _moved(base.keys, branch.keys, branch.altered)
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
    seen = {verdict for verdict, found in changed.items() if found}
    return Row(
        about="checkpoint",
        what="names, types, shapes and numbers",
        base=count_of(counts[0], "tensor"),
        branch=count_of(counts[1], "tensor"),
        difference=difference,
        bound="equal, or converted in one type",
        verdict=worst_of(seen) if counts[0] else "not measured",
        details=details,
    )


def _of_other_types(base: Mapping[str, str], branch: Mapping[str, str]) -> bool:
    """Return whether a tensor that both sides write has another number type."""
    return any(
        base[name].partition(" ")[0] != branch[name].partition(" ")[0]
        for name in base.keys() & branch.keys()
    )


def _moved(base: Mapping[str, str], branch: Mapping[str, str], altered: Sequence[str]) -> str:
    absent, new = base.keys() - branch.keys(), branch.keys() - base.keys()
    other = [name for name in base.keys() & branch.keys() if base[name] != branch[name]]
    said = [
        f"{len(names)} {word}, such as {min(names)}"
        for names, word in ((absent, "absent"), (new, "new"))
        if names
    ]
    if other:
        first = min(other)
        said.append(
            f"{len(other)} of another type or shape: {first} {base[first]} -> {branch[first]}"
        )
    if altered:
        said.append(f"{len(altered)} with other numbers, such as {altered[0]}")
    return "; ".join(said)


def config_rows(inspected: tuple[Inspected, Inspected], outputs: Sequence[Row]) -> Iterator[Row]:
    """Yield what became of the fields of the configuration: new, removed, of another default."""
    base, branch = (
        {name: value for name, value in (side.fields or {}).items() if name not in _OF_FILES}
        for side in inspected
    )
    new = {name: branch[name] for name in branch if name not in base}
    gone = [name for name in base if name not in branch]
    moved = [name for name in base if name in branch and base[name] != branch[name]]
    is_same = all(row.verdict == "ok" for row in outputs) and bool(outputs)
    # Old checkpoints lack a new field: they were loaded with its default.
    yield Row(
        about="configuration",
        what="new fields",
        base=count_of(len(base), "field"),
        branch=count_of(len(branch), "field"),
        difference=", ".join(f"{name}={value}" for name, value in new.items()) or "none",
        bound="same function",
        verdict="ok" if not new or is_same else "shown",
    )
    changes = [f"{name}: {base[name]} -> {branch[name]}" for name in moved]
    for what, found in (("removed fields", gone), ("changed defaults", changes)):
        yield Row(
            about="configuration",
            what=what,
            difference=", ".join(found) or "none",
            bound="none",
            verdict="out of bounds" if found else "ok",
        )


# --- Training steps: losses, costs, times ---------------------------------------------------------


def loss_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the losses of short trainings by network: the worst configuration and step."""
    trained = (one for one in results if one.situation.trains and one.sides[0].losses)
    for layer, members in grouped(trained, lambda result: result.situation.layer).items():
        yield _loss_row(layer, members)


def _loss_row(layer: str, members: Sequence[Result]) -> Row:
    worst, ends = -1.0, ("", "")
    counts: list[int] = []
    verdicts: set[Verdict] = set()
    details: list[Detail] = []
    for result in members:
        base, branch = result.sides
        count = _steps_to_judge(base.losses, base.losses_rounded)
        counts.append(count)
        verdict: Verdict = "out of bounds"
        if not branch.losses:
            said = _why_absent(branch, "training", "losses")
        elif not count:
            verdict, said = "not measured", "rounding alone moves the first loss of the base"
        else:
            losses, others = base.losses[:count], branch.losses[:count]
            apart = _relative(losses, others)
            if not apart <= worst:
                worst, ends = apart, (f"{losses[-1]:.6f}", f"{others[-1]:.6f}")
            if apart <= LOSS_BOUND:
                continue
            said = f"losses differ by {short(apart)}"
        verdicts.add(verdict)
        details.append(Detail(str(result.situation), said))
    fewest, most = min(counts), max(counts)
    judged = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return Row(
        about="training",
        what=f"{layer}, {judged} of {max(len(one.sides[0].losses) for one in members)} steps",
        configurations=len(members),
        base=ends[0],
        branch=ends[1],
        difference=short(worst) if any(ends) else "",
        bound=short(LOSS_BOUND),
        verdict=worst_of(verdicts),
        details=tuple(details),
    )


def _steps_to_judge(losses: Sequence[float], rounded: Sequence[float]) -> int:
    """Return how many losses rounding alone does not move; later ones would show nothing.

    A network such as mobilenet_v2 without pretrained weights amplifies it a thousandfold a step.
    """
    shares = (_relative([one], [other]) for one, other in zip(losses, rounded, strict=False))
    return sum(1 for _ in takewhile(lambda share: share <= _ROUNDING_SHARE * LOSS_BOUND, shares))


def _why_absent(branch: Examined, stage: str, what: str) -> str:
    failure = branch.failure_at(stage)
    return f"the branch fails: {failure}" if failure else f"the branch gave no {what}"


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


def cost_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the costs of one step, summed over all networks and configurations, by metric."""
    for metric, (what, bound) in _COSTS.items():
        totals = [0, 0]
        more: list[Detail] = []
        unpriced: list[Detail] = []
        for result in results:
            base, branch = result.sides
            before, after = base.costs.get(metric), branch.costs.get(metric)
            where = str(result.situation)
            if before is None:
                continue
            if after is None:
                unpriced.append(Detail(where, _why_absent(branch, "cost", "cost")))
                continue
            totals[0] += before
            totals[1] += after
            if after > before * (1 + bound):
                more.append(Detail(where, f"{what} {_change(before, after)}"))
        verdict: Verdict = "ok" if totals[0] else "not measured"
        yield Row(
            about="cost",
            what=what,
            base=f"{totals[0]:,}",
            branch=f"{totals[1]:,}",
            difference=f"absent in {len(unpriced)}" if unpriced else _change(*totals),
            bound=f"none +{100 * bound:g} %" if bound else "none costs more",
            verdict="out of bounds" if more or unpriced else verdict,
            details=(*more, *unpriced),
        )


def _change(before: int, after: int) -> str:
    if before == after:
        return "equal"
    return f"{100 * (after - before) / before:+.4g} %" if before else f"{after:+,}"


def time_row(network: str, estimate: Estimate | str) -> Row:
    """Return the ratio of the step times, which nothing judges, or why there is none."""
    what = KNOWN_NETWORKS[network].shown
    if isinstance(estimate, str):
        return Row(about="time", what=what, difference=clean(estimate), verdict="shown")
    return Row(
        about="time",
        what=what,
        base="1",
        branch=f"{estimate.ratio:.2f}",
        difference=f"{estimate.interval.low:.2f} to {estimate.interval.high:.2f}",
        verdict="shown",
    )
