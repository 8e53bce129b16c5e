"""The values in a run file: what was measured, and where.

Every struct is frozen and refuses unknown fields, so a file of another tool or schema is an error
that names the key, never a silently half-read record.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Address, Case, CaseId, Digest, Moment, Name, Version
from peft_regress.errors import AbsentError, InputError
from peft_regress.imports import CaseError
from peft_regress.metrics import Metric, Numerics
from peft_regress.project.budgets import Bound, Budget
from peft_regress.text import clean, count_of, pattern_of, redacted

SCHEMA_VERSION = 2
"""The version of the run files that this package writes and reads."""

OUTPUT_SCHEMA_VERSION = 1
"""The version of what commands print with `--format json`."""

MIXED_MACHINES = "mixed"
"""Machine digest of a union of shards from several machines; its times are never judged."""

Status = Literal["ok", "unsupported", "error"]
Role = Literal["baseline", "history"]

Amount = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""FLOPs or bytes."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An unknown field is an error."""


class _Sparse(_Strict, frozen=True, omit_defaults=True):
    """What is as by default is left out."""


class Failure(_Strict, frozen=True, kw_only=True):
    """Why a case is unsupported or in error."""

    type: str
    message: str
    after_steps: Amount | UnsetType = UNSET
    """Of an error: how many training steps were taken before it, of all seeds together."""

    @property
    def pattern(self) -> str:
        """Return type and message without names and numbers."""
        return f"{self.type}: {pattern_of(self.message)}"

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Return the type and the message of an exception, redacted."""
        # A file name in a message may hold bytes that are no text; a record must stay writable.
        message = redacted(str(error).encode("utf-8", "backslashreplace").decode().strip())
        return cls(type=type(error).__name__, message=message or "no message")

    @classmethod
    def of_case(cls, error: BaseException) -> Self:
        """Return the same of a case; the type is what a function of its own raised, if one did."""
        raised = error.__cause__ if isinstance(error, CaseError) else None
        return cls(type=type(raised or error).__name__, message=cls.of(error).message)


class Defect(_Sparse, frozen=True, kw_only=True):
    """How an invariant is false: what tells a known defect from a new one."""

    error: Failure | None = None
    """What the library raised."""
    tensors: list[str] = []
    """The tensors, layers or operators for which it is false."""
    size: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """How far something is off, in a unit of the invariant's own."""


class BatchCosts(_Sparse, frozen=True, kw_only=True):
    """What one module adds to the metrics of these names at one batch size.

    Dicts of FLOPs are by operator, dicts of bytes by category and operator. Numbers that follow
    from others are left out; `peft_regress.runs.ledger` has the rules.
    """

    forward_flops: dict[str, Amount] = {}
    backward_flops: dict[str, Amount] = {}
    paper_forward_flops: dict[str, Amount] = {}
    paper_backward_flops: dict[str, Amount] = {}
    optimizer_flops: Amount | UnsetType = UNSET
    """Of all operators."""
    projection_flops: dict[str, Amount] = {}
    high_bytes: dict[str, Amount] = {}
    """At the moment of each category's own high: `peak_<category>_bytes` sums them."""
    peak_bytes: dict[str, Amount] = {}
    optimizer_state_bytes: Amount | UnsetType = UNSET
    adapter_bytes: Amount | UnsetType = UNSET


class ModuleCosts(BatchCosts, frozen=True, kw_only=True):
    """What one module adds at batch 1, and at batch 32 if that does not follow."""

    b32: BatchCosts | UnsetType = UNSET


class Ledger(_Sparse, frozen=True, kw_only=True):
    """Where the FLOPs and the bytes of one training step come from, for attribution."""

    modules: dict[str, ModuleCosts] = {}
    """The costs by module; '' is outside any."""
    optimizer_flops: dict[str, Amount] = {}
    """The total by operator, since an optimizer treats all tensors alike."""
    optimizer_flops_b32: dict[str, Amount] = {}
    """The same at batch 32: the operators that differ."""
    planned: dict[str, dict[str, dict[str, Amount]]] = {}
    """Of programs for ExecuTorch: metric -> module -> category -> bytes at the plan's fullest
    moment; what no tensor uses then is `unused` of no module."""
    peak_phase: dict[str, str] = {}
    """The phase of the step in which `peak_bytes` and `peak_bytes_b32` occur."""


class UnreadLedger(str):
    """The digest of a ledger that is read when it is asked for."""

    __slots__ = ("read",)
    read: Callable[[], Ledger]

    def __new__(cls, digest: str, read: Callable[[], Ledger]) -> Self:
        """Make one; `read` returns the ledger."""
        made = super().__new__(cls, digest)
        made.read = read
        return made


class Machine(_Strict, frozen=True, kw_only=True):
    """The properties of a machine that times depend on; never a host name."""

    digest: Digest
    cpu: str
    cores: int
    threads: int
    instruction_set: str


class TensorSummary(_Strict, frozen=True, kw_only=True):
    """A tensor, or all tensors of one name in the batches of a training run."""

    shape: list[Amount]
    """Of one tensor; of batches, that of the first one."""
    dtype: str
    mean: float
    norm: float
    """Euclidean, over all elements."""
    rows: list[float] | UnsetType = UNSET
    """Of the first batch: a random projection of each row, of the first 64."""


class Inputs(_Sparse, frozen=True, kw_only=True):
    """What a case of one's own puts into its training, on the first seed."""

    weights: dict[str, TensorSummary] = {}
    """The unadapted model's parameters and buffers, by name."""
    train: dict[str, TensorSummary] = {}
    """All training batches together, by the path of a tensor in a batch."""
    test: dict[str, TensorSummary] = {}
    """All test batches together."""
    optimizer: list[dict[str, float]] = []
    """The numbers of each parameter group at the start."""


class ScriptFacts(_Sparse, frozen=True, kw_only=True):
    """What was seen of a training script beyond metrics."""

    optimizers: list[str]
    """Their classes, in the order in which they stepped first."""
    autocast: str
    """The dtype of autocast in the forward pass; '' without."""
    batches: dict[str, list[str]]
    """Digests of the whole numbers that the model got, by argument, one a micro-batch."""
    unseeded: list[str] = []
    """What differs between two runs, and so is in no record: inputs in words, metrics by name."""
    uncounted: dict[str, list[str]] = {}
    """By metric that therefore has no value: the operators without a FLOP formula."""
    written: str = ""
    """The files of its folder that appeared or changed while it ran, in words."""
    unseen: list[str] = []
    """What its steps cannot show, in words."""
    steps: list[Amount] = []
    """The numbers of the recorded steps; empty if they are the first ones."""


class MadeWith(_Strict, frozen=True, kw_only=True):
    """The model and the data that a stored adapter's output was computed with."""

    shapes: str
    """Digest of the base model's names and shapes."""
    weights_norm: float
    probe_norm: float

    def resembles(self, other: Self) -> bool:
        """Return whether an adapter made with `other` must give its output here too."""
        return self.shapes == other.shapes and all(
            math.isclose(getattr(self, name), getattr(other, name), rel_tol=1e-5)
            for name in ("weights_norm", "probe_norm")
        )


class Curve(_Strict, frozen=True, kw_only=True):
    """The whole training of a case's first seed: equal, bit for bit, where it is repeated."""

    losses: list[float]
    """One for each step, in the unit of the case's loss."""
    scores: dict[str, float]
    """What was measured on the test batches after it: `loss`, `accuracy` or `score`, and the
    case's own metrics."""


class Referee(_Strict, frozen=True, kw_only=True):
    """The training of a case's first seed in float64, which every processor rounds alike."""

    losses: list[float]
    """One for each step, in the unit of the case's loss."""
    gradients: list[float]
    """The Euclidean norm of all gradients of each step, as the optimizer leaves them."""
    updates: list[float]
    """The Euclidean norm of what each step changes in all trained parameters."""
    scores: dict[str, float]
    """`loss`, and `accuracy` or `score`, on the test batches after it."""
    moved: list[float]
    """The largest relative difference of these numbers up to each step, and last with the scores,
    from a training whose weights differ by 1e-13 of them: it bounds what rounding may do."""


class Record(_Strict, frozen=True, kw_only=True):
    """The result of one case in one run."""

    case: Case
    definition: str
    """A digest of what defines the case; records with different ones are incomparable."""
    status: Status
    error: Failure | None
    metrics: dict[str, Metric]
    """By name; empty unless the status is ok."""
    invariants: dict[str, bool | None]
    """Whether each holds; None if it does not apply."""
    ledger: Ledger | Address
    """In a file, and where ledgers were not read, its digest; an empty one as it is."""
    # Each of these only where it says something.
    settings: dict[str, str] | UnsetType = UNSET
    """What its author set of what defines the case, by name."""
    invariant_notes: dict[str, str] | UnsetType = UNSET
    """Where an invariant is false, or why it is null."""
    defects: dict[str, Defect] | UnsetType = UNSET
    """Each invariant that is false, in the parts that the gate compares."""
    numerics: Numerics | UnsetType = UNSET
    """Decides the bounds on the losses."""
    inputs: Inputs | UnsetType = UNSET
    trained: dict[str, list[Amount]] | UnsetType = UNSET
    """The shape of each parameter that trains, by name."""
    profiled_on: Literal["fake tensors", "real tensors"] | UnsetType = UNSET
    """Of a case of one's own: how its costs were counted."""
    batch: Annotated[int, msgspec.Meta(ge=1)] | UnsetType = UNSET
    """Of a case whose costs are those of its own step: the items of its batch."""
    budget: Budget | UnsetType = UNSET
    bounds: dict[str, Bound] | UnsetType = UNSET
    """The author's own bounds, by metric."""
    own_code: Digest | UnsetType = UNSET
    """Of a case of one's own: a digest of the user's modules that its code imports."""
    curve: Curve | UnsetType = UNSET
    """Of a training on a CPU: elsewhere sums have no fixed order."""
    repeats: str | UnsetType = UNSET
    """The run whose curve this case has, so that its other seeds took only their first steps."""
    nearby_losses: list[list[float]] | UnsetType = UNSET
    """Of a case of one's own: the first losses of each seed from weights that differ by 1e-4 of
    them, which bound how far rounding may move the first losses."""
    referee: Referee | str | UnsetType = UNSET
    """Of a case whose curve no reference has for this kind of machine; or why there is none."""
    rates: list[Annotated[list[float], msgspec.Meta(min_length=1)]] | UnsetType = UNSET
    """Of each parameter group: the learning rate after each step of the first seed, up to the last
    one that changes it."""
    test_items: Annotated[int, msgspec.Meta(ge=1)] | UnsetType = UNSET
    """How many there are; each decides its share of an accuracy."""
    machine: Machine | UnsetType = UNSET
    """Where the case was measured, if not on the machine of the run."""
    script: ScriptFacts | UnsetType = UNSET
    """Of a training script that is watched as it is."""

    @property
    def own_bounds(self) -> Mapping[str, Bound]:
        """Return the author's own bounds, by metric; empty if there are none."""
        return {} if self.bounds is UNSET else self.bounds

    @property
    def is_own(self) -> bool:
        """Return whether the case is a user's own, whose costs are those of its own step."""
        return self.profiled_on is not UNSET

    @property
    def cost_batch(self) -> int | None:
        """Return the batch of the costs without suffix; None for an own case that does not say."""
        if self.batch is not UNSET:
            return self.batch
        return None if self.is_own else 1

    @property
    def has_score(self) -> bool:
        """Return whether a score of the author's own is in the place of the accuracy."""
        return "score" in self.metrics or (self.curve is not UNSET and "score" in self.curve.scores)

    @property
    def unseeded(self) -> list[str]:
        """Return what differs between two runs of a script; empty for any other case."""
        return [] if self.script is UNSET else self.script.unseeded

    @property
    def uncounted(self) -> dict[str, list[str]]:
        """Return the operators of a script without a FLOP formula, by metric; else empty."""
        return {} if self.script is UNSET else self.script.uncounted

    @property
    def repeated_run(self) -> str | None:
        """Return the run whose curve this case has; None for any other case."""
        return None if self.repeats is UNSET else self.repeats

    @property
    def is_repeat(self) -> bool:
        """Return whether only the first seed trained in full, as it repeats another run."""
        return self.repeats is not UNSET and "loss" not in self.metrics

    def note_on(self, invariant: str) -> str:
        """Return where an invariant is false, or why it is null; '' if the record does not say."""
        return "" if self.invariant_notes is UNSET else self.invariant_notes.get(invariant, "")

    @property
    def whole_ledger(self) -> Ledger:
        """Return the ledger of a record that was read with it, or that can read it."""
        ledger = self.ledger.read() if isinstance(self.ledger, UnreadLedger) else self.ledger
        assert isinstance(ledger, Ledger), f"{self.case.id}: ledgers were not read"  # noqa: S101
        return ledger

    def value_of(self, *metrics: str) -> float | None:
        """Return the value of a metric, or the sum of several; None if one was not measured."""
        found = [self.metrics[name].value for name in metrics if name in self.metrics]
        return sum(found) if len(found) == len(metrics) else None

    @property
    def status_text(self) -> str:
        """Return the status with its error: 'error (KeyError: ...)'."""
        error = self.error
        return self.status if error is None else f"{self.status} ({error.type}: {error.message})"

    @property
    def long_status_text(self) -> str:
        """Return the status with its error, and after how many steps it came."""
        if self.error is None or self.error.after_steps is UNSET:
            return self.status_text
        return f"{self.status_text} after {count_of(self.error.after_steps, 'step')}"


def error_record(case: Case, definition: str, failure: Failure, status: Status = "error") -> Record:
    """Return the record of a case that could not be measured."""
    empty: dict[str, Any] = {"metrics": {}, "invariants": {}, "ledger": Ledger()}
    return Record(case=case, definition=definition, status=status, error=failure, **empty)


def with_budget(record: Record, budget_of: Callable[[Case], Budget | None]) -> Record:
    """Return a record with the budget of its case, unless the case states one itself."""
    budget = budget_of(record.case) if record.budget is UNSET else None
    return record if budget is None else msgspec.structs.replace(record, budget=budget)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The result of measuring one case; the record is what reaches disk."""

    record: Record

    @property
    def status(self) -> Status:
        """Return `ok`, `unsupported` or `error`."""
        return self.record.status

    def value(self, metric: str) -> float:
        """Return a metric's value; raises `AbsentError` if the case does not have it."""
        try:
            return self.record.metrics[metric].value
        except KeyError:
            raise AbsentError(f"{self.record.case.id} has no metric {metric!r}") from None


class Selection(_Strict, frozen=True, kw_only=True):
    """Which cases were asked for: all expected ones, or how the run was narrowed."""

    complete: bool
    """Whether all expected cases were asked for."""
    narrowed_by: list[str] = []
    """The options that chose among them, as they were typed."""
    not_selected: list[CaseId] = []


class Acceptance(_Sparse, frozen=True, kw_only=True):
    """As what a run was accepted, why and when."""

    reason: str
    date: Moment
    """ISO 8601 with a time zone, UTC as written."""
    role: Role
    retired: list[CaseId] = []
    """Case ids of earlier entries that are no longer expected: renamed or removed."""
    entry: str
    """Where the entry belongs in its storage: `<machine id>/NNNN_<name>`."""
    predecessor: Address | Literal[""] = ""
    """The content digest of the entry before it; of the first entry empty."""
    repeats: dict[CaseId, str] = {}
    """The cases that this environment repeats, with the entry that holds and judges them."""
    adapters: dict[CaseId, Address] = {}
    """The stored adapters that the entry relies on, by the id of their case."""


class Run(_Sparse, frozen=True, kw_only=True):
    """The object `peft_regress` of a run file: everything that the gate reads."""

    schema_version: int
    environment: dict[Name, Version]
    """The version of each package, by name."""
    machine: Machine
    selection: Selection
    cases: dict[CaseId, Record]
    """What was measured, by the id of the case."""
    metrics_known: list[str]
    """The metrics and invariants that the writer could measure."""
    direct: dict[Name, Digest] = {}
    """Of a candidate: the packages that came from a checkout, a file or a URL, whose version does
    not say what they are, with a digest of the source."""
    accepted: Acceptance | None = None
    """Of an entry of a storage alone."""
    ledgers: dict[str, Ledger] = {}
    """In a run file: each ledger once, by its digest. A storage keeps them beside its entries."""
    content_digest: str = ""

    def __iter__(self) -> Iterator[Record]:
        return iter(self.cases.values())

    @property
    def known(self) -> frozenset[str]:
        """The metrics and invariants that the writer could measure."""
        return frozenset(self.metrics_known)


def canonical_json(value: Any) -> bytes:
    """Return the canonical form of a JSON value, with sorted keys, for digests."""
    return msgspec.json.encode(value, order="sorted")


def digest_of(content: bytes) -> str:
    """Return 'sha256:<hex>'."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def canonical_digest(value: Any) -> str:
    """Return 'sha256:<hex>' of a JSON value, independent of the order of its keys."""
    return digest_of(canonical_json(value))


def content_digest(run: Run) -> str:
    """Return the digest of a run as it stands in a file.

    Without the digest itself, and without the ledgers, whose digests are in the records.
    """
    # What is empty is left out of the JSON.
    return canonical_digest(msgspec.structs.replace(run, ledgers={}, content_digest=""))


def check_acceptance(run: Run) -> None:
    """Raise `InputError` if the acceptance contradicts the run."""
    accepted = run.accepted
    if accepted is None:
        return
    if accepted.retired and accepted.role != "baseline":
        problem = f"an entry of role {accepted.role!r} judges no case, so it cannot retire one"
        raise InputError(problem)
    repeats = [name for name, one in run.cases.items() if one.is_repeat]
    if repeats and accepted.role == "baseline":
        raise InputError(f"case {repeats[0]} has no score of all seeds, so it cannot judge")
    if accepted.repeats and accepted.role != "baseline":
        raise InputError(f"an entry of role {accepted.role!r} confirms no case")
    both = sorted({*run.cases, *accepted.repeats} & set(accepted.retired))
    if both:
        raise InputError(f"case {both[0]} cannot be retired by a run that has it")


_LARGEST = 1e100
"""No measured value comes near it; above it sums and ratios of floats would overflow."""


def check_finite(metrics: Mapping[str, Metric], where: str) -> None:
    """Raise `InputError` if a metric is NaN, infinite, absurdly large, or a negative count."""
    for name, metric in metrics.items():
        for value in (metric.value, *itertools.chain.from_iterable(metric.by_seed)):
            # Not `math.isfinite`: it raises for whole numbers above the largest float.
            if not abs(value) <= _LARGEST:
                shown = clean(repr(value), longest=40)
                raise InputError(f"{where}: metric {name!r} is {shown}, not a finite number")
            if value < 0 and metric.unit not in {"nat", "ratio"}:
                raise InputError(
                    f"{where}: metric {name!r} is {value}, but a {metric.unit} is never negative"
                )


def check_consistent(record: Record, where: str) -> None:
    """Raise `InputError` if status, error, metrics and samples contradict each other."""
    if (record.status == "ok") != (record.error is None):
        raise InputError(f"{where}: status {record.status!r} with error {record.error}")
    if (record.status == "ok") != bool(record.metrics):
        raise InputError(f"{where}: status {record.status!r} with {len(record.metrics)} metrics")
    if record.repeats is not UNSET and record.curve is UNSET:
        raise InputError(f"{where}: repeats {record.repeats!r} without a curve")
    for name, metric in record.metrics.items():
        if not metric.samples:
            continue
        # Of a list of losses, one per step, the first counts.
        heads = [seed[0] for seed in metric.by_seed if seed]
        mean = sum(heads) / len(heads)
        if not math.isclose(mean, metric.value, rel_tol=1e-9, abs_tol=1e-300):
            raise InputError(
                f"{where}: metric {name!r} is {metric.value}, but the mean of its samples {mean}"
            )
