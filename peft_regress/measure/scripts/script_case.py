"""Measure a script as a case: run it twice, and make the record of what both runs show."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
from msgspec import UNSET, UnsetType

from peft_regress.cases import Case, Json
from peft_regress.gate.repeats import KnownCurve
from peft_regress.gate.verdicts import first_losses_of
from peft_regress.measure.costs import CostReport, step_ledger
from peft_regress.measure.float64 import LessPrecisionError
from peft_regress.measure.referee import SHARE, completed
from peft_regress.measure.scripts.observation import WatchedScript
from peft_regress.measure.scripts.watching import ScriptError, watch_script
from peft_regress.metrics import COST_METRICS, METRICS, Metric, make_metric
from peft_regress.project.script import Event, Script
from peft_regress.runs import schema
from peft_regress.runs.environment import describe_machine
from peft_regress.runs.schema import Referee
from peft_regress.text import few, redacted

NUDGE: Final = 1e-4
"""How far the second run moves the weights after its first step, as a share of each number."""
_SAME_LOSS: Final = 1e-6
"""How far the first loss of two runs may differ, relative: threads sum in no fixed order."""
_OF_ANY_BATCH: Final = ("optimizer_", "peak_optimizer_", "peak_param_", "peak_grad_")
"""How the names of costs begin that are the same whatever the shapes of a batch."""


@dataclass
class ScriptRecipe:
    """A script to measure, as measuring asks for it."""

    script: Script
    folder: Path
    """That of pyproject.toml, or the working folder."""
    used: dict[str, str] = field(default_factory=dict)
    """The packages that it imported, with their requirements, once it was measured."""
    runs_once: bool = False
    """Whether one run stands for both: then it may be without a seed, and nobody knows."""
    _loaded: frozenset[str] = frozenset()

    is_own: ClassVar[bool] = True
    runs_in_executorch: ClassVar[bool] = False

    @property
    def case(self) -> Case:
        """Return the names of the case."""
        return self.script.case

    @property
    def definition(self) -> str:
        """Return the digest of what defines it: what to run, never what is in the file."""
        return schema.canonical_digest({"case": self.case.id, **_defined(self.script)})

    def packages(self) -> dict[str, str]:
        """Return the versions of what the script imported beyond this package's requirements."""
        return self.used

    def loaded(self) -> frozenset[str]:
        """Return the packages of which the measured script has loaded a module."""
        return self._loaded

    def measure(
        self, *, has_reference: bool, known: Sequence[KnownCurve] = (), keep_referee: bool = False
    ) -> schema.Record:
        """Run the script twice and return its record; one in error if it ever was measured.

        known, keep_referee: as for `measure`; a referee takes one more run, a new one two.

        Raises `ScriptError` for a script that takes no step, or in which nothing trains; only
        without a reference.
        """
        try:
            record = self._record()
            referee = self._referee(record, known, keeps=keep_referee)
            return msgspec.structs.replace(record, referee=referee)
        except ScriptError as error:
            if not has_reference:
                raise
            return self._failed(schema.Failure.of(error))

    def _referee(
        self, record: schema.Record, known: Sequence[KnownCurve], *, keeps: bool
    ) -> Referee | str | UnsetType:
        """Run it in float64 where its losses are not the known ones of this kind of machine."""
        curve = first_losses_of(record)
        if curve is None or any(
            one.fits(curve, self.definition, describe_machine().digest) for one in known
        ):
            return UNSET
        theirs = next((one.referee for one in known if one.definition == self.definition), None)
        if theirs is None and (known or not keeps):
            return UNSET
        return self.refereed(theirs)

    def refereed(self, known: Referee | None, *, start: Path | None = None) -> Referee | str:
        """Run it in float64; return what it gave, or in words why there is no referee.

        known, start: as for a training of `refereed`.
        """
        try:
            found = self._in_float64(0.0, start)
            return completed(found, known, lambda: self._in_float64(SHARE, start))
        except (LessPrecisionError, ScriptError) as error:
            return str(error)

    def _in_float64(self, nudge: float, start: Path | None) -> Referee:
        seen = self._watch(nudge=nudge, float64=True, kept_start=start and str(start))
        if seen.less_precision:
            raise LessPrecisionError(seen.less_precision)
        if seen.problem is not None:
            raise ScriptError(f"float64 raises {seen.problem.type}: {seen.problem.message}")
        return Referee(
            losses=_losses(seen),
            gradients=[step.gradient_norm for step in seen.steps],
            updates=[],
            scores={},
            moved=[],
        )

    def _failed(self, failure: schema.Failure) -> schema.Record:
        record = schema.error_record(self.case, self.definition, failure)
        return msgspec.structs.replace(record, settings=_settings(self.script))

    def _record(self) -> schema.Record:
        script = self.script
        first = self._watch(nudge=0.0)
        second = first if self.runs_once else self._watch(nudge=NUDGE)
        self.used, self._loaded = dict(first.packages), first.loaded
        for seen in (first, second):
            problem = seen.problem
            if problem is not None:
                return self._failed(msgspec.structs.replace(problem, after_steps=len(seen.steps)))
            if seen.costs is None:
                raise ScriptError(f"Script {script.id!r}: {script.script}: {seen.why_no_costs}")
        metrics, again = (_metrics(seen, script.until) for seen in (first, second))
        unseeded = _unseeded(first, second, metrics, again)
        numbers = [step.number for step in first.steps]
        return schema.Record(
            case=script.case,
            definition=self.definition,
            status="ok",
            error=None,
            metrics={name: metrics[name] for name in METRICS if name in metrics.keys() - unseeded},
            invariants={},
            ledger=step_ledger({"": _report(first)}),
            settings=_settings(script),
            inputs=schema.Inputs(
                weights=_equal(first.weights, second.weights),
                train=_equal(_batches(first), _batches(second)),
                optimizer=[dict(group) for one in first.optimizers for group in one.groups],
            ),
            trained={name: list(one.shape) for name, one in first.trained.items()},
            profiled_on="real tensors",
            nearby_losses=UNSET if unseeded else [_losses(second)],
            rates=[
                [rate for rate in one if rate is not None]
                for one in zip_longest(*(step.rates for step in first.steps))
            ],
            script=schema.ScriptFacts(
                optimizers=[one.name for one in first.optimizers],
                autocast=first.autocast,
                batches=_equal(_digests(first), _digests(second)),
                unseeded=unseeded,
                uncounted={f"{at}_flops": list(names) for at, names in first.uncounted.items()},
                written=few(first.written),
                unseen=list(first.unseen),
                steps=[] if numbers[-1] == len(numbers) else numbers,
            ),
        )

    def _watch(self, *, nudge: float, **how: Any) -> WatchedScript:
        script, names = self.script, ("args", "steps", "until", "env", "time_limit")
        options = {name: getattr(script, name) for name in names}
        try:
            return watch_script(
                str(script.script), nudge=nudge, folder=self.folder, **options, **how
            )
        except ScriptError as error:
            raise ScriptError(f"Script {script.id!r}: {error}") from error


def _settings(script: Script) -> dict[str, str]:
    """Return what defines the case by name, for people: of variables only digests are stored."""
    env = {name: schema.digest_of(value.encode())[:19] for name, value in script.env.items()}
    return {
        name: redacted(value if isinstance(value, str) else schema.canonical_json(value).decode())
        for name, value in {**_defined(script), "env": env}.items()
    }


def _defined(script: Script) -> dict[str, Json]:
    return {
        "script": str(script.script),
        "args": list(script.args),
        "env": dict(script.env),
        "steps": script.steps,
        **({} if script.until is None else {"until": script.until}),
    }


def _equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in first.items() if second.get(name) == one}


def _unseeded(
    first: WatchedScript,
    second: WatchedScript,
    metrics: Mapping[str, Metric],
    again: Mapping[str, Metric],
) -> list[str]:
    """Return what differs between two runs: inputs in words, metrics by name; [] with a seed.

    Only without one: the losses of a seeded script differ too, since its weights were moved.
    """
    runs = first, second
    inputs: dict[str, list[dict[str, Any]]] = {
        "initial weights": [seen.weights for seen in runs],
        "training batches": [{**_batches(seen), **_digests(seen)} for seen in runs],
    }
    found = [
        f"{what} such as {min(names)}"
        for what, (was, now) in inputs.items()
        if (names := was.keys() - _equal(was, now).keys())
    ]
    pairs = list(zip(_losses(first), _losses(second), strict=False))[:1]
    if not found and all(math.isclose(*pair, rel_tol=_SAME_LOSS) for pair in pairs):
        return []
    shapes = [[x.shape for x in _batches(seen).values()] for seen in runs]
    # Of other shapes, the costs of the second step may be equal by chance.
    of_batch = {} if shapes[0] == shapes[1] else COST_METRICS
    return found + [
        name
        for name, one in metrics.items()
        if (one.kind != "seconds" and one != again.get(name))
        or (name in of_batch and not name.startswith(_OF_ANY_BATCH))
    ]


def _losses(seen: WatchedScript) -> list[float]:
    """Return the mean loss of each step, up to the first one without a number."""
    losses = (step.loss for step in seen.steps)
    return [loss for loss in takewhile(lambda one: one is not None, losses) if loss is not None]


def _metrics(seen: WatchedScript, until: Event | None) -> dict[str, Metric]:
    values: dict[str, float] = {**seen.step_metrics()}
    report = _report(seen)
    sizes = ("trainable_params", "total_params", "adapter_bytes")
    values |= {name: getattr(report, name) for name in sizes}
    values["micro_batches"] = len(seen.steps[1].micro_batches)
    if until is not None:
        values["steps_before_event"] = seen.steps_before[until]
    plain = [step.seconds for step in seen.steps if not step.is_recorded]
    if plain:
        values["step_seconds"] = min(plain)
    metrics = {name: make_metric(name, value) for name, value in values.items()}
    lists = {"first_losses": _losses(seen)}
    for name in ("unclipped_norm", "gradient_norm"):
        lists[f"{name}s"] = [getattr(step, name) for step in seen.steps]
    for name, numbers in lists.items():
        if numbers and all(map(math.isfinite, numbers)):
            metrics[name] = make_metric(name, numbers[0], [numbers])
    return metrics


def _report(seen: WatchedScript) -> CostReport:
    """Return the costs as those of any other case; what trains is what would be shipped."""
    assert seen.costs is not None  # noqa: S101  (checked before)
    trainable = sum(math.prod(one.shape) for one in seen.trained.values())
    shipped: Counter[str] = Counter()
    for name, one in seen.trained.items():
        shipped[name.rpartition(".")[0]] += math.prod(one.shape) * one.itemsize
    return CostReport(
        step=seen.costs,
        running={},
        trainable_params=trainable,
        total_params=trainable + seen.frozen_params,
        adapter_bytes=shipped.total(),
        shipped_bytes=shipped,
    )


def _batches(seen: WatchedScript) -> dict[str, schema.TensorSummary]:
    """Return what the model was called with, by micro-batch and argument."""
    batches = enumerate((batch for step in seen.steps for batch in step.micro_batches), 1)
    return {f"{at} {name}": one for at, batch in batches for name, one in batch.inputs.items()}


def _digests(seen: WatchedScript) -> dict[str, list[str]]:
    batches = [batch for step in seen.steps for batch in step.micro_batches]
    names = {name: None for batch in batches for name in batch.digests}
    return {name: [one.digests[name] for one in batches if name in one.digests] for name in names}
