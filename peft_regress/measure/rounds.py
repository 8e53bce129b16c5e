"""Fine-tune a case briefly, once for each seed, and check the invariants on the first seed.

If the first seed repeats a known training, bit for bit or in float64, the others take only their
first steps.
"""

import functools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from msgspec import UNSET, UnsetType
from torch import nn
from torch.optim import Optimizer

from peft_regress.baselines.run_adapters import keep_adapter
from peft_regress.baselines.stored_adapters import stored_adapter
from peft_regress.catalogue.built_in import BuiltIn
from peft_regress.cost.stand_ins import with_tensors, without_graph
from peft_regress.cost.storages import peak_while
from peft_regress.errors import NonFiniteLossError
from peft_regress.gate.referees import referee_of
from peft_regress.gate.repeats import KnownCurve
from peft_regress.measure import inputs
from peft_regress.measure.data import Data
from peft_regress.measure.definition import FIRST_LOSSES
from peft_regress.measure.invariants.continuing import Continuing
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.filled import one_wide_image
from peft_regress.measure.invariants.saving import StoredOutput
from peft_regress.measure.invariants.training import trains_alike
from peft_regress.measure.invariants.watch import InvariantWatch
from peft_regress.measure.objective import evaluated, is_pair, number
from peft_regress.measure.own_adapters import CallableAdapter
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.referee import refereed
from peft_regress.measure.training import TrainingRun, device_of, move_nearby, on_device
from peft_regress.memory.packing import is_lean
from peft_regress.metrics import Metric, make_metric
from peft_regress.runs.environment import describe_machine
from peft_regress.runs.schema import Curve, Inputs, MadeWith, Referee, TensorSummary

PROBE_ITEMS: Final = 4
RoundRunner: TypeAlias = Callable[..., Any]
"""Runs `target` for some rounds, as pytest-benchmark's `pedantic` does; see `plain_rounds`."""


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


class _Round(NamedTuple):
    training: TrainingRun
    scores: dict[str, float]
    own: dict[str, float]
    """The case's own metrics."""


class _RepeatsError(BaseException):
    """Ends the rounds after the first one: no `Exception`, which pytest-benchmark counts as one."""


class Rounds:
    """The fine-tunes of one case: one round for each seed, evaluated outside the timed part."""

    repeats: str | UnsetType = UNSET
    """The run whose training the first seed repeats."""
    curve: Curve | UnsetType = UNSET
    referee: Referee | str | UnsetType = UNSET
    nearby_losses: list[list[float]] | UnsetType = UNSET
    steps_taken = 0
    """Of all seeds together."""
    facts: dict[str, Fact]
    _training: TrainingRun
    _rates: inputs.Rates
    _optimizer: list[dict[str, float]]
    _updates: list[list[float]] | None = None

    def __init__(  # noqa: PLR0913  (what was made before the rounds)
        self,
        recipe: Recipe,
        *,
        definition: str,
        base: nn.Module,
        first: nn.Module,
        data: Data,
        keep_adapters: Path | None,
        keep_referee: bool,
    ) -> None:
        """Look up the adapter that the baselines hold for this case.

        definition: the digest that the adapter is stored under. base: the unadapted model of the
        first seed, which stays as it is; first: the adapted one. keep_adapters: the folder that
        keeps what the case would ship, or None. keep_referee: whether a training that nothing knows
        is trained in float64 too. Raises `InputError` if the stored adapter was altered.
        """
        self._recipe = recipe
        self._definition = definition
        self._keep_adapters = keep_adapters
        self._keep_referee = keep_referee
        self._base = base
        self._data = data
        self._device = device_of(base)
        probe = on_device(data.probe(PROBE_ITEMS), self._device)
        # Of a built-in case the definition says what they are.
        self._weights: dict[str, TensorSummary] = {}
        self._made_with: MadeWith | UnsetType = UNSET
        if recipe.is_own:
            self._weights = inputs.summaries_of(base)
            self._made_with = inputs.fingerprint_of(self._weights, probe)
        # What a callable alters of its base is no part of what it ships.
        is_callable = isinstance(recipe.adapter, CallableAdapter)
        self._ships_all = not (is_callable and inputs.alters(first, self._weights))
        self._watch = InvariantWatch(
            adapter=recipe.adapter,
            objective=recipe.objective,
            base=base,
            probe=probe,
            stored=self._stored(),
            steps=recipe.fine_tune.steps,
            wide_probe=probe if recipe.is_own else one_wide_image(probe),
        )
        self._continuing = Continuing(recipe, base, probe)
        self._first: nn.Module | None = first
        self._rounds: list[_Round] = []
        self._seen = inputs.BatchSums(rows=True)
        self._test: list[Any] = []
        self._known: Sequence[KnownCurve] = ()
        self._first_losses: list[tuple[float, ...]] = []
        """Of the seeds that took no more than their first steps."""
        self._peaks: dict[str, int | None] = {}

    def run(self, run_rounds: RoundRunner, *, known: Sequence[KnownCurve] = ()) -> None:
        """Fine-tune once for each seed, or the first alone in full if it repeats a known training.

        known: the trainings of a reference.
        """
        recipe = self._recipe
        self._known = known
        test = self._data.test_batches(recipe.test_batch)
        self._test = [on_device(batch, self._device) for batch in test]
        assert self._first is not None  # noqa: S101  (not used yet)
        self._continuing.before_training(self._first)
        self._watch.before_training(self._first)
        seeds = iter(recipe.seeds)

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            if self.repeats is not UNSET:
                raise _RepeatsError
            seed = recipe.seeds[0] if self._is_done else next(seeds)
            model, optimizer = self._made(seed)
            if seed == recipe.seeds[0] and not self._is_done:
                self._watch.training.watch_first_step(model, optimizer)
            return (model, optimizer, seed), {}

        try:
            run_rounds(self._train, setup=setup, teardown=self._finish, rounds=len(recipe.seeds))
        except _RepeatsError:
            self._first_losses = [self._begun(seed) for seed in recipe.seeds[1:]]
            return
        if recipe.is_own and not isinstance(self.referee, Referee):
            self.nearby_losses = [list(self._begun(seed, nearby=True)) for seed in recipe.seeds]

    @property
    def _is_done(self) -> bool:
        """Whether all seeds were trained: what `--benchmark-cprofile` trains then is not kept."""
        return len(self._rounds) == len(self._recipe.seeds)

    def _made(self, seed: int, *, nearby: bool = False) -> tuple[nn.Module, Optimizer]:
        """Return a seed's adapted model, maybe with nearby weights, and its optimizer."""
        if self._first is not None:
            model, self._first = self._first, None
        else:
            model = self._recipe.adapted_model(seed)
        if nearby:
            move_nearby(model)
        optimizer = self._recipe.make_optimizer(model)
        if seed == self._recipe.seeds[0]:
            self._optimizer = inputs.numbers_of(optimizer)
        return model, optimizer

    def _begun(self, seed: int, *, nearby: bool = False) -> tuple[float, ...]:
        made, batches = self._made(seed, nearby=nearby), self._recipe.batches(self._data, seed=seed)
        options: dict[str, Any] = {"only": FIRST_LOSSES, "on_step": self._stepped}
        return self._recipe.train(*made, batches, seed=seed, **options).losses

    def _stored(self) -> StoredOutput | None:
        """Return the stored adapter, unless it was made with another model or other data."""
        recipe = self._recipe
        found = stored_adapter(recipe.baselines, recipe.case, self._definition)
        if found is None or not self._ships_all:
            return None
        theirs, ours = found[1].made_with, self._made_with
        if theirs is not UNSET and (ours is UNSET or not ours.resembles(theirs)):
            return None
        return found[0], found[1].output

    def _train(self, model: nn.Module, optimizer: Optimizer, seed: int) -> None:
        is_first = not self._rounds
        if is_first:
            self._rates = inputs.Rates(optimizer, steps=self._recipe.fine_tune.steps)
        try:
            self._training = self._recipe.train(
                model, optimizer, self._batches(seed), seed=seed, on_step=self._stepped
            )
        finally:
            self._watch.memory.end()
        taken, wanted = len(self._training.losses), self._recipe.fine_tune.steps
        if taken != wanted:
            raise RuntimeError(f"the training took {taken} steps, not the {wanted} of the case")

    def _stepped(self, step: int) -> None:
        self.steps_taken += 1
        if not self._rounds:
            self._rates.note(step)
            self._watch.memory.stepped(step)

    def _batches(self, seed: int) -> Iterator[Any]:
        is_first = seed == self._recipe.seeds[0] and not self._is_done
        for batch in self._recipe.batches(self._data, seed=seed):
            if self._recipe.is_own and is_first:
                self._seen.add(batch)
            yield batch

    def _finish(self, model: nn.Module, optimizer: Optimizer, seed: int) -> None:
        if self._is_done:
            return
        recipe, training = self._recipe, self._training
        with evaluated(model):
            if seed == recipe.seeds[0]:
                (scores, own), peak = peak_while(lambda: self._scores_of(model), model)
                self._peaks["evaluation_peak_bytes"] = peak
            else:
                scores, own = self._scores_of(model)
        if not math.isfinite(scores["loss"]):
            raise NonFiniteLossError(step=len(training.losses), loss=scores["loss"], seed=seed)
        self._rounds.append(_Round(training, scores, own))
        if seed == recipe.seeds[0]:
            # A loss may have kept losses in the model, with their graphs.
            trained = with_tensors(model, without_graph)
            self.facts = self._watch.after_training(trained, optimizer)
            self._peaks["saving_peak_bytes"] = self._watch.saving.peak_bytes
            self._keep_adapter(model)
            dtype, make = recipe.adapter.dtype or torch.float32, recipe.make_optimizer
            self._updates = inputs.optimizer_updates(make, dtype=dtype, device=self._device)
            self._compare(self._rounds[0])
            self.facts |= self._continuing.after_training(model, optimizer)
            self._ask_referee()
            if self.curve is not UNSET and is_lean(model):
                self.facts["lean_trains_alike"] = trains_alike(recipe, self._data, training.losses)

    def _scores_of(self, model: nn.Module) -> tuple[dict[str, float], dict[str, float]]:
        fine_tune = self._recipe.fine_tune
        scores = self._recipe.objective.scores(model, self._test)
        own = {}
        for name, metric in (fine_tune.metrics or {}).items():
            said = f"FineTune {fine_tune.id!r}: metric {name!r}"
            own[name] = number(metric.measure, model, self._test, name=said)
        return scores, own

    def _compare(self, first: _Round) -> None:
        """Keep the curve of the first seed, and note whether it repeats the known one."""
        if self._device.type != "cpu":
            return  # sums have no fixed order there
        metrics = self._recipe.fine_tune.metrics or {}
        own = {name: value for name, value in first.own.items() if metrics[name].kind != "seconds"}
        curve = Curve(losses=list(first.training.losses), scores={**first.scores, **own})
        self.curve = curve
        if self._known and len(self._recipe.seeds) > 1:
            here = curve, self._definition, describe_machine().digest
            names = (one.run_name for one in self._known if one.fits(*here))
            self.repeats = next(names, UNSET)

    def _ask_referee(self) -> None:
        """Train in float64 what departs from a reference that did, or what nothing knows."""
        if self.curve is UNSET or self.repeats is not UNSET:
            return
        known = [one for one in self._known if one.definition == self._definition]
        theirs = next((one.referee for one in known), None)
        if theirs is None and (known or not self._keep_referee):
            return
        self.referee = refereed(self._recipe, self._base, known=theirs)
        if len(self._recipe.seeds) > 1:
            ours = referee_of(self.referee)
            names = (one.run_name for one in known if one.agrees(self.curve, ours))
            self.repeats = next(names, UNSET)

    def _keep_adapter(self, model: nn.Module) -> None:
        """Keep what the case would ship, of a built-in method with ranks only the lowest one's."""
        recipe = self._recipe
        fine_tune, rank = recipe.fine_tune, recipe.case.rank
        ranks = fine_tune.method.ranks if isinstance(fine_tune, BuiltIn) else ()
        is_higher = rank is not None and rank != min(ranks, default=rank)
        if self._keep_adapters is None or is_higher or not self._ships_all:
            return
        if self.facts["saved_adapter_reloads"].holds:
            keep_adapter(
                self._keep_adapters,
                recipe.case,
                definition=self._definition,
                output=self._watch.rows(model),
                made_with=self._made_with,
                save=functools.partial(recipe.adapter.save, model),
            )

    @property
    def rates(self) -> list[list[float]]:
        """Return the learning rates of the first seed, by parameter group."""
        return self._rates.by_group()

    @property
    def test_items(self) -> int:
        """Return how many answers decide an accuracy: one for each label of the test batches."""
        pairs = (batch for batch in self._test if is_pair(batch))
        shapes: list[tuple[int, ...]] = [getattr(batch[1], "shape", ()) for batch in pairs]
        if len(shapes) == len(self._test) and all(len(shape) == 1 for shape in shapes):
            return sum(shape[0] for shape in shapes)
        return self._data.test.count

    @property
    def inputs(self) -> Inputs:
        """Return what went into the training of the first seed."""
        test = inputs.BatchSums(rows=True)
        for batch in self._test:
            test.add(batch)
        train, tested = self._seen.summaries(), test.summaries()
        return Inputs(weights=self._weights, train=train, test=tested, optimizer=self._optimizer)

    def metrics(self, *, timed: bool) -> dict[str, Metric]:
        """Return the metrics of the rounds, with one sample for each seed.

        timed: whether the wall time of a step is among them. A case that repeats a known training
        has no scores: those of one seed say nothing of all.
        """
        rounds = self._rounds
        first_losses = [one.training.losses[:FIRST_LOSSES] for one in rounds] + self._first_losses
        lists = {"first_losses": [list(one) for one in first_losses]}
        samples: dict[str, list[float]] = {}
        if self.repeats is UNSET:
            samples |= {name: [one.scores[name] for one in rounds] for name in rounds[0].scores}
        if timed:
            samples["step_seconds"] = [one.training.median_step_seconds for one in rounds]
        own = {
            name: Metric(
                value=statistics.fmean(one.own[name] for one in rounds),
                unit=metric.unit,
                direction=metric.direction,
                kind=metric.kind,
                samples=[one.own[name] for one in rounds],
            )
            for name, metric in (self._recipe.fine_tune.metrics or {}).items()
            if self.repeats is UNSET
        }
        singles = {**self._peaks, "wide_filled_loss": self._watch.wide_filled_loss}
        filled = self._watch.filled_losses
        if filled is not None:
            samples["filled_losses"] = list(filled)
        if self._updates is not None:
            lists["optimizer_updates"] = self._updates
        at_first = {name: statistics.fmean(one[0] for one in lists[name]) for name in lists}
        return {
            **{name: make_metric(name, at_first[name], lists[name]) for name in lists},
            **{name: make_metric(name, statistics.fmean(s), s) for name, s in samples.items()},
            **{name: make_metric(name, one) for name, one in singles.items() if one is not None},
            **own,
        }
