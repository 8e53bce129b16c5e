"""Take the first steps of a fine-tuning, and digest what the whole of it would compute."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft_regress.measure.computation import TRACED_STEPS, ComputationTrace
from peft_regress.measure.objective import number
from peft_regress.measure.seeding import seed_all
from peft_regress.measure.training import begin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from peft_regress.measure.recipe import Recipe


def trace_of(recipe: Recipe) -> ComputationTrace:
    """Return a trace of a case's training."""
    fine_tune = recipe.fine_tune
    metrics = fine_tune.metrics or {}
    own: list[Any] = [metric.measure for metric in metrics.values()]
    own += [function for function in (fine_tune.score, fine_tune.loss) if function is not None]
    mode = [fine_tune.mode] if callable(fine_tune.mode) else []
    stated = [(name, one.unit, one.direction, one.kind) for name, one in metrics.items()]
    return ComputationTrace(steps=fine_tune.steps, scored_by=own, runs=mode, stated=stated)


@dataclass(kw_only=True)
class FirstSteps:
    """The first steps of the first seed, and the batches of all."""

    recipe: Recipe
    trace: ComputationTrace
    test: Sequence[Any]
    losses: list[float] = field(default_factory=list)
    """Of the steps that were taken, in nats."""

    def take(self, model: nn.Module, optimizer: Optimizer, batches: Iterator[Any]) -> None:
        """Take the first steps of the first seed, and evaluate once.

        What a whole training would raise, it raises.
        """
        recipe, trace, seed = self.recipe, self.trace, self.recipe.seeds[0]
        if trace.problem is not None:
            return
        # By the very function that trains in full: what is wrong with it must show here.
        training = recipe.train(
            model,
            optimizer,
            batches,
            seed=seed,
            first=TRACED_STEPS,
            trace=trace,
            only=TRACED_STEPS,
        )
        self.losses = list(training.losses)
        trace.rest_of_schedule(optimizer)
        for batch in itertools.islice(batches, recipe.fine_tune.steps - TRACED_STEPS):
            trace.batch(batch)
        with trace.evaluation(model, self.test):
            scores_of(recipe, model, self.test)

    def pass_over(
        self, model: nn.Module, optimizer: Optimizer, batches: Iterator[Any], *, seed: int
    ) -> None:
        """Digest what the training of another seed starts from, and its batches."""
        seed_all(seed)
        begin(model, optimizer, self.recipe.loop, trace=self.trace)
        for batch in itertools.islice(batches, self.recipe.fine_tune.steps):
            self.trace.batch(batch)


def scores_of(
    recipe: Recipe, model: nn.Module, test: Sequence[Any]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scores of a model on the test batches, and the case's own metrics."""
    scores = recipe.objective.scores(model, test)
    own = {
        name: number(
            metric.measure, model, test, name=f"FineTune {recipe.case.id!r}: metric {name!r}"
        )
        for name, metric in (recipe.fine_tune.metrics or {}).items()
    }
    return scores, own
