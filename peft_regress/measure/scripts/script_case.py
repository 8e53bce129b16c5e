"""Measure a script as a case: run it twice, and make the record of what both runs show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import msgspec

from peft_regress.cases import Case, Json
from peft_regress.catalogue.own_cases import settings_in_use
from peft_regress.measure.costs import CostReport, step_ledger
from peft_regress.measure.scripts.observation import Observation
from peft_regress.measure.scripts.process import ScriptError, watch_script
from peft_regress.metrics import METRICS, Metric, make_metric
from peft_regress.own_code import stated_by
from peft_regress.runs.schema import (
    Failure,
    Inputs,
    Record,
    ScriptFacts,
    TensorSummary,
    canonical_digest,
    canonical_json,
    error_record,
)
from peft_regress.script import Script

NUDGE: Final = 1e-4
"""How far the second run moves the weights after its first step, as a share of each number."""
_SAME_LOSS: Final = 1e-6
"""How far the first loss of two runs may differ, relative: threads sum in no fixed order."""


@dataclass
class ScriptRecipe:
    """A script to measure, as measuring asks for it."""

    script: Script
    used: dict[str, str] = field(default_factory=dict)
    """The packages that it imported, once it was measured."""

    is_own: ClassVar[bool] = True
    runs_in_executorch: ClassVar[bool] = False

    @property
    def case(self) -> Case:
        """Return the names of the case."""
        return self.script.case

    @property
    def definition(self) -> str:
        """Return the digest of what defines it: what to run, never what is in the file."""
        return canonical_digest({"case": self.case.id, **_defined(self.script)})

    def packages(self) -> dict[str, str]:
        """Return the versions of what the script imported beyond this package's requirements."""
        return self.used

    def measure(self, *, has_reference: bool) -> Record:
        """Run the script twice and return its record; one in error if it ever was measured.

        Raises `ScriptError` for a script that takes no two steps, or whose runs differ: that is,
        which draws without a seed; only without a reference.
        """
        try:
            return self._record()
        except ScriptError as error:
            if not has_reference:
                raise
            record = error_record(self.case, self.definition, Failure.of(error))
            stated = stated_by(self.script)
            return msgspec.structs.replace(record, settings=_settings(self.script), **stated)

    def _record(self) -> Record:
        script = self.script
        first, second = (_watch(script, nudge=nudge) for nudge in (0.0, NUDGE))
        self.used = dict(first.packages)
        _check_repeats(script, first, second)
        if first.costs is None:
            raise ScriptError(f"Script {script.id!r}: {script.script}: {first.why_no_costs}")
        metrics = _metrics(first)
        return Record(
            case=script.case,
            definition=self.definition,
            status="ok",
            error=None,
            metrics={name: metrics[name] for name in METRICS if name in metrics},
            invariants={},
            ledger=step_ledger({"": _report(first)}),
            settings=_settings(script),
            inputs=Inputs(
                weights=first.weights,
                train=dict(_batches(first)),
                optimizer=[dict(group) for one in first.optimizers for group in one.groups],
            ),
            trained={name: list(one.shape) for name, one in first.trained.items()},
            profiled_on="real tensors",
            nearby_losses=[_losses(second)],
            rates=[
                list(rates) for rates in zip(*(step.rates for step in first.steps), strict=True)
            ],
            script=ScriptFacts(
                optimizers=[one.name for one in first.optimizers],
                autocast=first.autocast,
                batches=_digests(first),
            ),
            **stated_by(script),
        )


def _settings(script: Script) -> dict[str, str]:
    """Return what defines the case by name, for people."""
    return {
        name: value if isinstance(value, str) else canonical_json(value).decode()
        for name, value in _defined(script).items()
    }


def _defined(script: Script) -> dict[str, Json]:
    return {
        "script": str(script.script),
        "args": list(script.args),
        "env": dict(script.env),
        "steps": script.steps,
    }


def _watch(script: Script, *, nudge: float) -> Observation:
    try:
        return watch_script(
            str(script.script),
            args=script.args,
            steps=script.steps,
            nudge=nudge,
            env=script.env,
            folder=settings_in_use().folder,
            time_limit=script.time_limit,
        )
    except ScriptError as error:
        raise ScriptError(f"Script {script.id!r}: {error}") from error


def _check_repeats(script: Script, first: Observation, second: Observation) -> None:
    """Raise `InputError` if two runs differ before anything was moved."""
    found = next(_differences(first, second), None)
    if found is not None:
        raise ScriptError(
            f"Script {script.id!r}: two runs of {script.script} differ, first in {found}. Seed it, "
            "as by torch.manual_seed(0) or transformers.set_seed(0) before it builds its model, "
            "and give a data loader a seeded generator"
        )


def _differences(first: Observation, second: Observation) -> Iterator[str]:
    for name, was in first.weights.items():
        now = second.weights.get(name)
        if now != was:
            yield f"the weights {name} before the first step"
    was_digests, now_digests = _digests(first), _digests(second)
    for name, digests in was_digests.items():
        if now_digests.get(name) != digests:
            yield f"the training batches ({name})"
    for name, summary in _batches(first):
        if dict(_batches(second)).get(name) != summary:
            yield f"the training batches ({name})"
    for loss, again in list(zip(_losses(first), _losses(second), strict=False))[:1]:
        if not math.isclose(loss, again, rel_tol=_SAME_LOSS):
            yield f"the loss of step 1, {loss:.7g} and {again:.7g}, such as by dropout"


def _losses(seen: Observation) -> list[float]:
    """Return the mean loss of each step, up to the first one without a number."""
    means = []
    for step in seen.steps:
        losses = [batch.loss for batch in step.micro_batches if batch.loss is not None]
        if not losses:
            break
        means.append(sum(losses) / len(losses))
    return means


def _metrics(seen: Observation) -> Mapping[str, Metric]:
    values: dict[str, float] = {**seen.step_metrics()}
    report = _report(seen)
    values |= {
        name: getattr(report, name)
        for name in ("trainable_params", "total_params", "adapter_bytes")
    }
    values["micro_batches"] = len(seen.steps[1].micro_batches)
    plain = [step.seconds for step in seen.steps if not step.is_recorded]
    if plain:
        values["step_seconds"] = min(plain)
    metrics = {name: make_metric(name, value) for name, value in values.items()}
    norms = [step.gradient_norm for step in seen.steps]
    for name, numbers in (("first_losses", _losses(seen)), ("gradient_norms", norms)):
        if numbers:
            metrics[name] = make_metric(name, numbers[0], [numbers])
    return metrics


def _report(seen: Observation) -> CostReport:
    """Return the costs as those of any other case; what trains is what would be shipped."""
    assert seen.costs is not None  # noqa: S101  (checked before)
    shipped: dict[str, int] = {}
    trainable = 0
    for name, one in seen.trained.items():
        size = math.prod(one.shape)
        trainable += size
        module = name.rpartition(".")[0]
        shipped[module] = shipped.get(module, 0) + size * one.itemsize
    return CostReport(
        step=seen.costs,
        running={},
        trainable_params=trainable,
        total_params=trainable + seen.frozen_params,
        adapter_bytes=sum(shipped.values()),
        shipped_bytes=shipped,
    )


def _batches(seen: Observation) -> Iterator[tuple[str, TensorSummary]]:
    """Yield what the model was called with, by micro-batch and argument."""
    batches = (batch for step in seen.steps for batch in step.micro_batches)
    for at, batch in enumerate(batches, 1):
        for name, summary in batch.inputs.items():
            yield f"{at} {name}", summary


def _digests(seen: Observation) -> dict[str, list[str]]:
    digests: dict[str, list[str]] = {}
    for step in seen.steps:
        for batch in step.micro_batches:
            for name, digest in batch.digests.items():
                digests.setdefault(name, []).append(digest)
    return digests
