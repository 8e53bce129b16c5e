"""Judge losses, costs and times of training steps. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from peft_regress.environments.checklist.messages import Examined
from peft_regress.environments.checklist.rows import (
    SHOWN_NETWORKS,
    Detail,
    Row,
    name_of,
    said_by,
    short,
)
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.environments.checklist.rows import Verdict
    from peft_regress.environments.checklist.running import Result
    from peft_regress.gate.paired_times import Estimate

LOSS_BOUND: Final = 1e-4
"""The protocol's bound on the loss of a training, relative."""
_ROUNDING_SHARE: Final = 0.1
"""How much of that bound rounding may use up in a loss that is judged. Seen on the small networks:
2e-7 in every one of 8 steps."""


def loss_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the losses of short trainings by network: the worst configuration and step."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.situation.trains and isinstance(result.base, Examined) and result.base.losses:
            groups[result.situation.network].append(result)
    for network, members in groups.items():
        yield _loss_row(network, members)


def _loss_row(network: str, members: Sequence[Result]) -> Row:
    worst, ends = -1.0, (math.nan, math.nan)
    steps: list[int] = []
    details: list[Detail] = []
    verdicts: set[Verdict] = set()
    for result in members:
        assert isinstance(result.base, Examined)  # noqa: S101  (the caller chose it)
        losses = result.base.losses
        count = _steps_to_judge(losses, result.base.losses_rounded)
        steps.append(count)
        where = name_of(result.situation)
        found = result.branch.losses if isinstance(result.branch, Examined) else []
        if not found:
            verdicts.add("out of bounds")
            details.append(Detail(where, _why_untrained(result)))
        elif not count:
            verdicts.add("not measured")
            details.append(Detail(where, "rounding alone moves the first loss of the base"))
        else:
            apart = _relative(losses[:count], found[:count])
            if not apart <= LOSS_BOUND:
                verdicts.add("out of bounds")
                details.append(Detail(where, f"losses differ by {short(apart)}"))
            if not apart <= worst:
                worst, ends = apart, (losses[count - 1], found[count - 1])
    most = max(len(one.base.losses) for one in members if isinstance(one.base, Examined))
    judged = f"{min(steps)}" if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
    was_compared = worst >= 0 or math.isnan(worst)
    return Row(
        about="training",
        what=f"{SHOWN_NETWORKS[network]}, {judged} of {most} steps",
        configurations=len(members),
        base=f"{ends[0]:.6f}" if was_compared else "",
        branch=f"{ends[1]:.6f}" if was_compared else "",
        difference=short(worst) if was_compared else "",
        bound=short(LOSS_BOUND),
        verdict=next((one for one in ("out of bounds", "not measured") if one in verdicts), "ok"),
        details=tuple(details),
    )


def _steps_to_judge(losses: Sequence[float], rounded: Sequence[float]) -> int:
    """Return how many losses rounding alone does not move; later ones would show nothing.

    A network such as mobilenet_v2 without pretrained weights amplifies it a thousandfold a step.
    """
    count = 0
    for one, other in zip(losses, rounded, strict=False):
        if not _relative([one], [other]) <= _ROUNDING_SHARE * LOSS_BOUND:
            break
        count += 1
    return count


def _why_untrained(result: Result) -> str:
    if isinstance(result.branch, Examined):
        failure = result.branch.failures.get("training")
        if failure is not None:
            return f"the branch fails: training: {said_by(failure)}"
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


def cost_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield the costs of one step, summed over all networks and configurations, by metric."""
    for metric, (what, bound) in _COSTS.items():
        totals = [0, 0]
        more: list[Detail] = []
        unpriced: list[Detail] = []
        for result in results:
            if not isinstance(result.base, Examined) or metric not in result.base.costs:
                continue
            before = result.base.costs[metric]
            after = result.branch.costs.get(metric) if isinstance(result.branch, Examined) else None
            if after is None:
                unpriced.append(Detail(name_of(result.situation), _why_unpriced(result)))
                continue
            totals[0] += before
            totals[1] += after
            if after > before * (1 + bound):
                said = f"{what} {_change(before, after)}"
                more.append(Detail(name_of(result.situation), said))
        verdict: Verdict = "ok" if totals[0] else "not measured"
        if more or unpriced:
            verdict = "out of bounds"
        yield Row(
            about="cost",
            what=what,
            base=f"{totals[0]:,}",
            branch=f"{totals[1]:,}",
            difference=f"absent in {len(unpriced)}" if unpriced else _change(*totals),
            bound=f"none +{100 * bound:g} %" if bound else "none costs more",
            verdict=verdict,
            details=(*more, *unpriced),
        )


def _why_unpriced(result: Result) -> str:
    if isinstance(result.branch, Examined) and "cost" in result.branch.failures:
        return f"the branch fails: cost: {said_by(result.branch.failures['cost'])}"
    return "the branch gave no cost"


def _change(before: int, after: int) -> str:
    if before == after:
        return "equal"
    return f"{100 * (after - before) / before:+.4g} %" if before else f"{after:+,}"


def time_row(network: str, estimate: Estimate | str) -> Row:
    """Return the ratio of the step times, which nothing judges, or why there is none."""
    what = SHOWN_NETWORKS[network]
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
