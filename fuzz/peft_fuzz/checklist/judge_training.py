"""Judge losses, costs and times of training steps. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from peft_fuzz.checklist.messages import Examined
from peft_fuzz.checklist.rows import Detail, Row, Verdict, grouped, short, worst_of
from peft_fuzz.checklist.situations import KNOWN_NETWORKS
from peft_regress.gate.paired_times import Estimate
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.text import clean

if TYPE_CHECKING:
    from peft_fuzz.checklist.running import Result

LOSS_BOUND: Final = 1e-4
"""The protocol's bound on the loss of a training, relative."""
_ROUNDING_SHARE: Final = 0.1
"""How much of that bound rounding may use up in a loss that is judged. Seen on the small networks:
2e-7 in every one of 8 steps."""


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


_COSTS: Final = {
    "forward_flops": ("FLOPs of the forward pass", 0.0),
    "backward_flops": ("FLOPs of the backward pass", 0.0),
    "peak_bytes": ("peak bytes of a training step", DEFAULT_POLICY.bytes_bound),
}


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
