"""Judge what both sides gave: one row for each thing that the protocol asks for. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from peft_regress.environments.checklist.differences import PARTS
from peft_regress.environments.checklist.messages import Examined
from peft_regress.environments.checklist.situations import NETWORKS
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.text import clean, count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from peft_regress.environments.checklist.messages import Inspected, Situation
    from peft_regress.environments.checklist.running import Result
    from peft_regress.gate.paired_times import Estimate

Verdict = Literal["ok", "out of bounds", "not measured", "shown"]
About = Literal["outputs", "checkpoint", "configuration", "training", "cost", "time"]

ATOL: Final = 1e-4
"""The protocol's bound on an output, which is of the order of 1 in every network here."""
LOSS_BOUND: Final = 1e-4
"""The protocol's bound on the loss of a training, relative."""
HALF_BOUNDS: Final = {"float16": 0.01, "bfloat16": 0.05}
"""Bounds on an output in half precision, as a share of the largest output. Seen, of LoRA and its
variants on the small networks: a half-precision output differs from float32's by up to 0.005 and
0.039, a merged one from an unmerged one by up to 0.003 and 0.035. A branch that computes the same
in another order may differ by as much; one that computes in the same order differs by 0."""

_SHOWN_NETWORKS: Final = {network.name: network.shown for network in NETWORKS}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table."""

    about: About
    what: str
    settings: int | None = None
    """How many settings it is about; None for all."""
    base: str = ""
    branch: str = ""
    difference: str = ""
    bound: str = ""
    verdict: Verdict
    details: tuple[str, ...] = ()
    """The situations that are out of bounds or not measured, and why."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All rows, and what no row is about."""

    rows: tuple[Row, ...]
    unsupported: tuple[str, ...] = ()
    """What neither side can do."""
    gained: tuple[str, ...] = ()
    """What only the branch can do."""
    smallest_effect: float = field(default=math.nan)
    """The smallest difference that an adapter made to a compared output."""

    @property
    def exit_code(self) -> Literal[0, 1, 3]:
        """1 if a row is out of bounds; else 3 if one was not measured or there is none; else 0."""
        verdicts = {row.verdict for row in self.rows}
        if "out of bounds" in verdicts:
            return 1
        compared = any(row.about == "outputs" and row.verdict == "ok" for row in self.rows)
        return 0 if compared and "not measured" not in verdicts else 3


class _Part(NamedTuple):
    """One function of one situation: what was compared, or why not."""

    situation: Situation
    name: str
    verdict: Verdict | Literal["unsupported", "gained"]
    share: float = 0.0
    """The difference in multiples of the bound."""
    apart: float = 0.0
    bases: float = 0.0
    branches: float = 0.0
    floor: float = 0.0
    problem: str = ""

    @property
    def line(self) -> str:
        return f"{self.situation.label}, {self.name}: {self.problem}"


def judge(
    results: Sequence[Result],
    inspected: tuple[Inspected, Inspected],
    times: Mapping[str, Estimate | str],
) -> Judged:
    """Return the rows of a comparison."""
    parts = [part for result in results for part in _parts(result)]
    outputs = list(_output_rows(parts))
    rows = [
        *outputs,
        _checkpoint_row(results, parts),
        *_config_rows(inspected, outputs),
        *_loss_rows(results),
        *_cost_rows(results),
        *(_time_row(name, estimate) for name, estimate in times.items()),
    ]
    effects = [
        result.base.effect
        for result in results
        if isinstance(result.base, Examined) and result.found
    ]
    return Judged(
        rows=tuple(rows),
        unsupported=tuple(_listed(parts, "unsupported")),
        gained=tuple(_listed(parts, "gained")),
        smallest_effect=min(effects, default=math.nan),
    )


def _parts(result: Result) -> Iterator[_Part]:
    """Judge the unmerged and the merged output of one situation."""
    for name in PARTS:
        yield _part(result, name)


def _part(result: Result, name: str) -> _Part:
    situation, base, branch = result.situation, result.base, result.branch
    if isinstance(base, str):
        return _Part(situation, name, "not measured", problem=f"the base gave no answer: {base}")
    if base.unavailable:
        problem = f"this CPU cannot compute it: {base.unavailable}"
        return _Part(situation, name, "not measured", problem=problem)
    own = _failure(base, name)
    if isinstance(branch, str):
        verdict: Verdict = "not measured" if own else "out of bounds"
        return _Part(situation, name, verdict, problem=f"the branch gave no answer: {branch}")
    others = "" if branch is None else _failure(branch, name)
    if own:
        kind: Literal["unsupported", "gained"] = "unsupported" if others else "gained"
        return _Part(situation, name, kind, problem=own)
    if others:
        return _Part(situation, name, "out of bounds", problem=f"the branch fails: {others}")
    return _compared(result, base, name)


def _compared(result: Result, base: Examined, name: str) -> _Part:
    situation, found = result.situation, result.found.get(name)
    if found is None or not math.isfinite(found.largest_base):
        problem = "the base gives no finite output"
        return _Part(situation, name, "not measured", problem=problem)
    is_half = situation.dtype in HALF_BOUNDS
    bound = HALF_BOUNDS[situation.dtype] if is_half else ATOL
    apart = found.relative if is_half else found.absolute
    limit = bound * found.largest_base if is_half else bound
    numbers = (apart / bound, apart, found.largest_base, found.largest_branch, found.floor)
    if not apart <= bound:  # also for NaN
        shown = _percent if is_half else _short
        problem = f"differs by {shown(apart)}, bound {shown(bound)}"
        return _Part(situation, name, "out of bounds", *numbers, problem)
    if base.effect <= limit:
        problem = f"the adapter itself changes outputs by {_short(base.effect)}, within the bound"
        return _Part(situation, name, "not measured", *numbers, problem)
    return _Part(situation, name, "ok", *numbers)


def _failure(side: Examined, name: str) -> str:
    """Return why a side has no output of this name; empty if it has one."""
    stages = ["wrapping", "loading", *(["merging"] if name == "merged" else [])]
    for stage in stages:
        if stage in side.failures:
            failure = side.failures[stage]
            return clean(f"{stage}: {failure.type}: {failure.message}")
    return ""


def _output_rows(parts: Sequence[_Part]) -> Iterator[Row]:
    """Yield a row for each network and number type that was compared."""
    groups: dict[tuple[str, str], list[_Part]] = defaultdict(list)
    for part in parts:
        if part.verdict not in {"unsupported", "gained"}:
            groups[part.situation.network, part.situation.numbers].append(part)
    for (network, numbers), members in groups.items():
        worst = max(members, key=lambda part: math.inf if math.isnan(part.share) else part.share)
        dtype = worst.situation.dtype
        bound = HALF_BOUNDS.get(dtype, ATOL)
        shown = _percent if dtype in HALF_BOUNDS else _short
        was_compared = any(part.bases for part in members)
        yield Row(
            about="outputs",
            what=f"{_SHOWN_NETWORKS[network]}, {numbers}",
            settings=len({part.situation.label for part in members}),
            base=_short(worst.bases) if was_compared else "",
            branch=_short(worst.branches) if was_compared else "",
            difference=shown(worst.apart) if was_compared else "",
            bound=shown(bound),
            verdict=_worst_verdict(members),
            details=tuple(
                f"{_SHOWN_NETWORKS[network]}, {numbers}, {part.line}"
                for part in members
                if part.verdict != "ok"
            ),
        )


def _worst_verdict(members: Sequence[_Part]) -> Verdict:
    verdicts = {part.verdict for part in members}
    if "out of bounds" in verdicts:
        return "out of bounds"
    return "not measured" if "not measured" in verdicts else "ok"


def _listed(parts: Sequence[_Part], verdict: str) -> Iterator[str]:
    """Yield the networks and settings of a verdict, each problem once."""
    groups: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
    for part in parts:
        if part.verdict == verdict:
            # What cannot be wrapped cannot be merged either: named once.
            is_whole = not part.problem.startswith("merging")
            if part.name == "merged" and is_whole:
                continue
            key = part.situation.network, "" if is_whole else ", merged", part.problem
            groups[key][part.situation.label] = None
    for (network, which, problem), labels in groups.items():
        yield f"{_SHOWN_NETWORKS[network]}{which} ({', '.join(labels)}): {problem}"


def _checkpoint_row(results: Sequence[Result], parts: Sequence[_Part]) -> Row:
    """Compare what each side writes: a changed layout is right where the outputs stay the same."""
    good = {
        id(part.situation)
        for part in parts
        if part.name == "unmerged" and part.verdict in {"ok", "not measured"}
    }
    counts = [0, 0]
    changed: list[str] = []
    broken: list[str] = []
    for result in results:
        base, branch = result.base, result.branch
        if not isinstance(base, Examined) or not isinstance(branch, Examined):
            continue
        if not base.keys or not branch.keys:
            continue
        counts[0] += len(base.keys)
        counts[1] += len(branch.keys)
        if base.keys != branch.keys:
            line = f"{_named(result.situation)}: {_moved(base.keys, branch.keys)}"
            (changed if id(result.situation) in good else broken).append(line)
    verdict: Verdict = "out of bounds" if broken else "ok" if counts[0] else "not measured"
    moved = len(changed) + len(broken)
    difference = f"differ in {count_of(moved, 'checkpoint')}" if moved else "none"
    if changed and not broken:
        difference += ", each converted while loading"
    return Row(
        about="checkpoint",
        what="names, types and shapes",
        base=count_of(counts[0], "tensor"),
        branch=count_of(counts[1], "tensor"),
        difference=difference,
        bound="equal, or converted",
        verdict=verdict,
        details=(*broken, *changed),
    )


def _moved(base: Mapping[str, str], branch: Mapping[str, str]) -> str:
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
    return "; ".join(said)


def _config_rows(inspected: tuple[Inspected, Inspected], outputs: Sequence[Row]) -> Iterator[Row]:
    base, branch = (side.fields or {} for side in inspected)
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
    yield Row(
        about="configuration",
        what="removed fields",
        difference=", ".join(gone) or "none",
        bound="none",
        verdict="out of bounds" if gone else "ok",
    )
    yield Row(
        about="configuration",
        what="changed defaults",
        difference=", ".join(f"{name}: {base[name]} -> {branch[name]}" for name in moved) or "none",
        bound="none",
        verdict="out of bounds" if moved else "ok",
    )


def _loss_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the losses of short trainings, by network: the worst of all settings and steps."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.situation.trains and isinstance(result.base, Examined) and result.base.losses:
            groups[result.situation.network].append(result)
    for network, members in groups.items():
        yield _loss_row(network, members)


def _loss_row(network: str, members: Sequence[Result]) -> Row:
    worst, floor, ends = 0.0, 0.0, (math.nan, math.nan)
    details: list[str] = []
    verdict: Verdict = "ok"
    for result in members:
        assert isinstance(result.base, Examined)  # noqa: S101  (the caller chose it)
        losses, again = result.base.losses, result.base.losses_again
        found = result.branch.losses if isinstance(result.branch, Examined) else []
        own = _relative(losses, again)
        apart = _relative(losses, found)
        floor = max(floor, own)
        if not own <= LOSS_BOUND:
            verdict = "not measured" if verdict == "ok" else verdict
            details.append(
                f"{_named(result.situation)}: two trainings of the base differ by {_short(own)}"
            )
        elif not apart <= LOSS_BOUND:
            verdict = "out of bounds"
            said = f"differs by {_short(apart)}" if found else _why_untrained(result)
            details.append(f"{_named(result.situation)}, training: {said}")
        if (found and not apart <= worst) or math.isnan(ends[0]):
            worst, ends = max(worst, apart), (losses[-1], found[-1] if found else math.nan)
    return Row(
        about="training",
        what=f"{_SHOWN_NETWORKS[network]} (base twice: {_short(floor)})",
        settings=len(members),
        base=f"{ends[0]:.6f}",
        branch="" if math.isnan(ends[1]) else f"{ends[1]:.6f}",
        difference=_short(worst),
        bound=_short(LOSS_BOUND),
        verdict=verdict,
        details=tuple(details),
    )


def _why_untrained(result: Result) -> str:
    if isinstance(result.branch, Examined):
        failure = result.branch.failures.get("training")
        if failure is not None:
            return clean(f"the branch fails: {failure.type}: {failure.message}")
    return "the branch gave no losses"


def _relative(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest relative difference of two lists; infinity if they don't match."""
    if len(losses) != len(others):
        return math.inf
    shares = [
        abs(one - other) / max(abs(one), DEFAULT_POLICY.fingerprint_floor_nats)
        for one, other in zip(losses, others, strict=True)
    ]
    return math.nan if any(map(math.isnan, shares)) else max(shares)


_COSTS: Final = {
    "forward_flops": ("FLOPs of the forward pass", 0.0),
    "backward_flops": ("FLOPs of the backward pass", 0.0),
    "peak_bytes": ("peak bytes of a training step", DEFAULT_POLICY.bytes_bound),
}


def _cost_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the costs of one step, summed over all networks and settings, by metric."""
    for metric, (what, bound) in _COSTS.items():
        totals = [0, 0]
        more: list[str] = []
        unpriced: list[str] = []
        for result in results:
            if not isinstance(result.base, Examined) or metric not in result.base.costs:
                continue
            before = result.base.costs[metric]
            after = result.branch.costs.get(metric) if isinstance(result.branch, Examined) else None
            if after is None:
                unpriced.append(f"{_named(result.situation)}: the branch has no {what}")
                continue
            totals[0] += before
            totals[1] += after
            if after > before * (1 + bound):
                more.append(f"{_named(result.situation)}: {what} {_change(before, after)}")
        verdict: Verdict = "ok" if totals[0] else "not measured"
        if more or unpriced:
            verdict = "out of bounds"
        yield Row(
            about="cost",
            what=what,
            base=f"{totals[0]:,}",
            branch=f"{totals[1]:,}",
            difference=_change(*totals) if totals[0] else "",
            bound=f"no setting +{100 * bound:g} %" if bound else "no setting more",
            verdict=verdict,
            details=(*more, *unpriced),
        )


def _change(before: int, after: int) -> str:
    if before == after:
        return "equal"
    return f"{100 * (after - before) / before:+.4g} %" if before else f"{after:+,}"


def _time_row(network: str, estimate: Estimate | str) -> Row:
    what = _SHOWN_NETWORKS[network]
    if isinstance(estimate, str):
        return Row(about="time", what=what, difference=clean(estimate), verdict="shown")
    interval = f"{estimate.interval.low:.2f} to {estimate.interval.high:.2f}"
    return Row(
        about="time",
        what=what,
        base="1",
        branch=f"{estimate.ratio:.2f}",
        difference=interval,
        verdict="shown",
    )


def _named(situation: Situation) -> str:
    return f"{_SHOWN_NETWORKS[situation.network]}, {situation.numbers}, {situation.label}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _short(value: float) -> str:
    return f"{value:.2g}"
