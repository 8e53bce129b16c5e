"""Fine-tune a case briefly, once for each seed, and check the invariants on the first seed."""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from peft_regress.baselines.adapters import keep_adapter, stored_adapter
from peft_regress.errors import NonFiniteLossError
from peft_regress.measure.invariants import InvariantWatch, StoredOutput
from peft_regress.measure.training import evaluate
from peft_regress.metrics import make_metric

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from peft_regress.catalogue.tasks.protocol import TaskData
    from peft_regress.measure.recipe import Recipe
    from peft_regress.measure.training import TrainingRun
    from peft_regress.metrics import Metric

SEEDS: Final = (0, 1, 2)
FIRST_LOSSES: Final = 4
_PROBE_IMAGES: Final = 4


class RoundRunner(Protocol):
    """A function that runs `target` for some rounds, as pytest-benchmark's `pedantic` does."""

    def __call__(
        self,
        target: Callable[..., Any],
        *,
        setup: Callable[[], Any],
        teardown: Callable[..., Any],
        rounds: int,
    ) -> Any:
        """In each round call `setup`, then `target` and `teardown` with what `setup` returned."""


def plain_rounds(
    target: Callable[..., Any],
    *,
    setup: Callable[[], Any],
    teardown: Callable[..., Any],
    rounds: int,
) -> None:
    """Run the rounds without timing them."""
    for _ in range(rounds):
        args, kwargs = setup()
        target(*args, **kwargs)
        teardown(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class _Round:
    """What one seed gave: its training, and its accuracy and loss on the test images after it."""

    training: TrainingRun
    accuracy: float
    loss: float


class FineTunes:
    """The fine-tunes of one case: one round for each seed, evaluated outside the timed part."""

    def __init__(self, recipe: Recipe, *, definition: str, keep_adapters: Path | None) -> None:
        """Look up the adapter that the baselines hold for this case.

        definition: the digest that the adapter is stored under. keep_adapters: the folder that
        keeps what the case would ship, or None. Raises `InputError` if the stored one was altered.
        """
        self._recipe = recipe
        self._definition = definition
        self._keep_adapters = keep_adapters
        found = stored_adapter(recipe.baselines, recipe.case, definition)
        self._stored = found and StoredOutput(folder=found[0], logits=found[1].output)
        self._rounds: list[_Round] = []
        self._training: TrainingRun
        self._first: nn.Module | None = None
        self._data: TaskData
        self._watch: InvariantWatch
        self.invariants: dict[str, bool | None] = {}

    def wrap_first(self) -> None:
        """Adapt the model of the first seed, which the invariants are checked on."""
        self._first = self._recipe.adapted_model(SEEDS[0])

    def run(self, run_rounds: RoundRunner | None) -> None:
        """Fine-tune once for each seed; with None, not at all."""
        if run_rounds is None:
            return
        recipe, model_recipe = self._recipe, self._recipe.model
        self._data = recipe.load_data()
        self._watch = InvariantWatch(
            method=model_recipe.method,
            rank=model_recipe.rank,
            head=model_recipe.architecture.head,
            base=recipe.base_model(SEEDS[0]),
            probe=self._data.test_images[:_PROBE_IMAGES],
            labels=self._data.test_labels[:_PROBE_IMAGES],
            stored=self._stored,
        )
        seeds = iter(SEEDS)

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            seed = next(seeds)
            if seed == SEEDS[0] and self._first is not None:
                model, self._first = self._first, None
                self._watch.before_training(model)
            else:
                model = recipe.adapted_model(seed)
            optimizer = model_recipe.make_optimizer(model)
            if seed == SEEDS[0]:
                self._watch.watch_first_step(model, optimizer)
            return (model, optimizer, seed), {}

        run_rounds(self._train, setup=setup, teardown=self._finish, rounds=len(SEEDS))

    def _train(self, model: nn.Module, optimizer: Any, seed: int) -> None:
        self._training = self._recipe.train(
            model, optimizer, self._data, seed=seed, first=FIRST_LOSSES
        )

    def _finish(self, model: nn.Module, optimizer: Any, seed: int) -> None:
        training = self._training
        accuracy, loss = evaluate(model, self._data.test_images, self._data.test_labels)
        if not math.isfinite(loss):
            raise NonFiniteLossError(step=len(training.losses), loss=loss, seed=seed)
        self._rounds.append(_Round(training=training, accuracy=accuracy, loss=loss))
        if seed == SEEDS[0]:
            self.invariants = self._watch.after_training(model, optimizer)
            self._keep_adapter(model)

    def _keep_adapter(self, model: nn.Module) -> None:
        """Keep what the case would ship, of a method with ranks only the lowest one's."""
        method, rank = self._recipe.model.method, self._recipe.model.rank
        is_lowest = rank is None or rank == min(method.ranks)
        if self._keep_adapters is None or not is_lowest:
            return
        if self.invariants["saved_adapter_reloads"]:
            keep_adapter(
                self._keep_adapters,
                self._recipe.case,
                definition=self._definition,
                output=self._watch.logits(model),
                save=functools.partial(method.save, model),
            )

    def metrics(self, *, timed: bool) -> dict[str, Metric]:
        """Return the metrics of the fine-tunes, with one sample for each seed; none before `run`.

        timed: whether the wall time of a step is among them.
        """
        rounds = self._rounds
        if not rounds:
            return {}
        first = [list(one.training.first_losses) for one in rounds]
        samples = {
            "accuracy": [one.accuracy for one in rounds],
            "loss": [one.loss for one in rounds],
        }
        if timed:
            samples["step_seconds"] = [one.training.median_step_seconds for one in rounds]
        filled = self._watch.filled_losses
        if filled is not None:
            samples["filled_losses"] = list(filled)
        mean_at_step_1 = statistics.fmean(losses[0] for losses in first)
        return {
            "first_losses": make_metric("first_losses", mean_at_step_1, first),
            **{name: make_metric(name, statistics.fmean(s), s) for name, s in samples.items()},
        }
