"""Observations, verdicts, and the reasons for them. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from msgspec import UNSET

from peft_regress.metrics import BATCH_SUFFIX, Kind, Metric, MetricSpec
from peft_regress.runs.schema import MIXED_MACHINES, Curve, Machine, Record, Run

Verdict = Literal[
    "newly_failing", "over_budget", "regressed", "incomparable", "missing", "new", "fixed",
    "improved", "known_defect", "unchanged",
]  # fmt: skip
"""The gravest first: a case gets the gravest verdict of its reasons."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

FAILING: frozenset[Verdict] = frozenset({"regressed", "over_budget", "newly_failing"})
INCOMPLETE: frozenset[Verdict] = frozenset({"incomparable", "missing", "new"})
UNACCEPTED: frozenset[Verdict] = frozenset({"improved", "fixed"})

Value = float | int | str | bool | None

RemarkKind = Literal[
    "new metric", "not judged", "same curve", "rounding only", "by bounds", "within own bound",
    "looser bound", "looser budget", "operators", "model", "unseeded", "written", "unseen",
    "sensitivity", "attainable",
]  # fmt: skip
"""`new metric`: the reference's run could not know it. `not judged`: a score without a bound, or a
budget on what was not measured. `same curve`: the first seed's training equals the reference's bit
for bit. `rounding only`: it does not, but in float64. `by bounds`: neither, or nothing is known of
it here. `within own bound`:
the usual bound would have reported the change. `looser ...`: than the reference's. `operators`:
other counts of them, while nothing else changed, and no package. `model`: the unadapted model
changed. Of a script: `unseeded`: what is not judged. `written`: its new files. `unseen`: what its
steps cannot show. `sensitivity`: how small a change of an own case's losses fails it."""

gravest = VERDICTS.index
"""The key that sorts verdicts, the gravest first."""


class Change(NamedTuple):
    """How far a metric changed, and how far it may."""

    old: float
    new: float
    relative: float | None
    """The relative change; of a fraction or a score the difference. None if `old` is zero."""
    bound: float


ReasonKind = Literal[
    "status", "definition", "trained", "model", "numerics", "autocast", "inputs", "training",
    "optimizer", "rates", "curve", "evaluation", "invariant", "metric", "samples", "budget",
    "fits",
]  # fmt: skip
"""What a reason is about; what means most to a training comes first. `model`: the unadapted one of
a script. `numerics`: the precision class. `training`: that a side trained one seed alone. `rates`:
of learning. `curve`: a loss after equal ones. `evaluation`: scores after equal losses. `samples`:
the number of a metric's samples."""
_KINDS: Final[tuple[ReasonKind, ...]] = get_args(ReasonKind)
_METRIC_RANKS: Final[Mapping[Kind, int]] = {"fingerprint": 0, "accuracy": 1, "score": 1}
"""Costs come last."""
SMALL_SHARE: Final = 0.01

Obstacle = Literal[
    "missing", "new", "definition", "inputs", "training", "not measured", "other meaning"
]
"""Why something could not be judged: it has no record, or no reference; another definition, other
inputs; a side that trained one seed alone, is of a version that does not measure it, or means
something else by it."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One difference between both sides of a case."""

    kind: ReasonKind
    subject: str = ""
    """The metric, invariant, setting, budget or device; the part of the inputs."""
    old: Value
    new: Value
    relative_change: float | None = None
    bound: float | None = None
    verdict: Verdict = "incomparable"
    obstacle: Obstacle | None = None
    share: float = math.inf
    """How large the change is: of FLOPs and bytes as a share of what the whole step takes, of other
    metrics the relative change. Infinite where no number says it."""
    since: str | None = None
    """Of a drift: the entry that `old` is from, older than the one that judges the case."""
    spec: MetricSpec | None = None
    """Of a metric, a budget or a device: what the number is."""
    bound_reason: str = ""
    """The evidence for a bound that the author of the case states."""
    limit: float | None = None
    """Of a budget or a device: the most that `new` may be, of a score the least."""
    note: str = ""
    """Of an invariant: where it is false, or why it is no longer checked. Of inputs, rates and an
    optimizer: the place of both values."""

    @property
    def name(self) -> str:
        """What it is about in words: `peak_bytes`, `invariant NAME`, `curve`."""
        if self.kind == "metric":
            return self.subject
        if self.kind == "samples":
            return f"{self.subject}.samples"
        if self.kind == "inputs":
            return self.kind
        return f"{self.kind} {self.subject}".rstrip()

    @property
    def order(self) -> tuple[int, int, bool, float]:
        """The key that sorts reasons: the gravest first, then by what they mean to a training.

        What follows from other costs stands behind them: those at batch 32, and sums.
        """
        of_metric = 0 if self.spec is None else _METRIC_RANKS.get(self.spec.kind, 2)
        rank = 3 * _KINDS.index(self.kind) + (of_metric if self.kind == "metric" else 0)
        follows = self.subject.endswith(BATCH_SUFFIX) or self.subject == "category_sum_bytes"
        return gravest(self.verdict), rank, follows, -self.share

    @property
    def is_small(self) -> bool:
        """Whether it is a cost that changes by less than a hundredth."""
        is_cost = self.kind == "metric" and self.spec and self.spec.kind in {"exact", "bytes"}
        return bool(is_cost) and self.share < SMALL_SHARE

    @property
    def title(self) -> str:
        """The name as reports show it."""
        return self.name if self.since is None else f"{self.name} (drift since {self.since})"


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A fact about a case on which its verdict does not depend."""

    kind: RemarkKind
    subject: str
    """A metric, `invariant NAME`, or `budget NAME`."""
    old: Value = None
    new: Value = None
    spec: MetricSpec | None = None
    """Of a number: what it is."""
    text: str = ""
    """The evidence for a bound, the change of a model in words, or where an invariant is false."""

    @property
    def fails_strictly(self) -> bool:
        """Whether it fails a strict run until the record is accepted."""
        return self.kind in {"looser bound", "looser budget", "operators"}


@dataclass(frozen=True, kw_only=True)
class BudgetUse:
    """One part of a case's budget, and how much the case uses of it."""

    name: str
    """`peak`, `update`, `ship`, `score`, `edge_train`, `memory` or `storage` of a device, or
    `peak_of`, `peak_b32_of`, `update_of` or `ship_of` with another case."""
    value: float | None
    """None if it was not measured."""
    limit: float | None
    """The most, of a score the least; None if nothing is known of the device."""
    spec: MetricSpec
    lacks: str = "not measured"
    """Why it is not judged, if it is not."""

    @property
    def part(self) -> str:
        """The name without the device or the other case."""
        return self.name.partition(" ")[0]

    @property
    def over_by(self) -> float | None:
        """By how much the value is beyond the limit; below 0 is room. None if it is not judged."""
        if self.value is None or self.limit is None:
            return None
        return self.limit - self.value if self.is_least else self.value - self.limit

    @property
    def is_least(self) -> bool:
        """Whether the limit is the least that the value may be, and not the most."""
        return self.name == "score"

    @property
    def is_over(self) -> bool:
        """Whether the value is beyond the limit."""
        return self.over_by is not None and self.over_by > 0

    @property
    def share(self) -> float | None:
        """The used share of the budget, more than 1 if it is over; None where no ratio says it."""
        if self.value is None or self.limit is None:
            return None
        used, most = (self.limit, self.value) if self.is_least else (self.value, self.limit)
        return used / most if used >= 0 and most > 0 else None


@dataclass(frozen=True, kw_only=True)
class CaseVerdict:
    """The verdict on one case, the gravest of its reasons."""

    id: str
    verdict: Verdict
    reasons: tuple[Reason, ...] = ()
    remarks: tuple[Remark, ...] = ()
    budgets: tuple[BudgetUse, ...] = ()

    @property
    def is_remarked(self) -> bool:
        """Whether a remark fails a strict run."""
        return any(one.fails_strictly for one in self.remarks)


class Origin(NamedTuple):
    """A metric as it was in the entry that its drift counts from."""

    metric: Metric
    entry: str


class Confirmation(NamedTuple):
    """The last entry whose environment repeats a reference."""

    entry: str
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A record with the environment and the machine that it was measured in."""

    record: Record
    environment: Mapping[str, str]
    machine: Machine
    run_name: str
    """The run that holds the record, as reports name it."""
    drift_origins: Mapping[str, Origin] = field(default_factory=dict)
    """Of a reference: for each metric, the older entry that its drift counts from."""
    confirmed: Confirmation | None = None
    """Of a reference: which environment repeated it last."""
    known: frozenset[str] = frozenset()
    """The metrics and invariants that the writer of its run could measure."""
    has_direct: bool = False
    """Whether a package of its environment came from a checkout: no version says what it is."""

    @property
    def curve(self) -> Curve | None:
        """The training of the first seed, if this kind of machine can repeat it bit for bit."""
        if self.machine.digest == MIXED_MACHINES:
            return None
        return first_losses_of(self.record) if self.record.curve is UNSET else self.record.curve


def first_losses_of(record: Record) -> Curve | None:
    """Return what a script has of a curve; None without a seed, and for any other case."""
    losses = record.metrics.get("first_losses")
    if record.script is UNSET or record.unseeded or losses is None:
        return None
    return Curve(losses=losses.by_seed[0], scores={})


def observations_of(run: Run, run_name: str) -> dict[str, Observation]:
    """Return each case of one run as an observation, by case id."""
    known = run.known
    return {
        name: Observation(
            record=record,
            environment=run.environment,
            machine=run.machine if record.machine is UNSET else record.machine,
            run_name=run_name,
            known=known,
            has_direct=bool(run.direct),
        )
        for name, record in run.cases.items()
    }
