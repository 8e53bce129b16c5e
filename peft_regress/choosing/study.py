"""Fine-tune methods on a task until full fine-tuning learns no more, each at its own rate."""

import contextlib
import dataclasses
import math
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import torch

from peft_regress.cases import split_adapter_name
from peft_regress.catalogue.evidence import FULL, POINTS, Study, Trained, margin_of, why_not_learned
from peft_regress.catalogue.matrix import method_at
from peft_regress.choosing.candidates import adapted_by
from peft_regress.choosing.ranking import difference
from peft_regress.errors import InputError, NonFiniteLossError
from peft_regress.imports import told
from peft_regress.measure.data import Data, Items
from peft_regress.measure.objective import is_pair
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import device_of, on_device, single_thread, undisturbed
from peft_regress.project.fine_tune import FineTune

RATES: Final = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Multiples of a method's usual learning rate."""
_DOUBLINGS: Final = 6
"""How often the first number of steps is doubled at most."""
_CHOOSING: Final = 1_000
"""From this seed on trainings choose steps and rates; scores are of the seeds 0, 1, ..."""
_BEFORE_STOPPING: Final = 3
"""How many seeds a method gets before it may be stopped."""
_CLEARLY: Final = 3
"""How many margins a method may score below the best one in choosing its rate."""


class Point(NamedTuple):
    """A model's score at some step, on one half of the test data."""

    score: float
    parts: dict[str, float]
    """The case's own metrics."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains a case by any method, at any rate, for so many steps."""

    case: Callable[[str, int], FineTune]
    """Returns the case with a method, such as `lora-r4`, and a number of steps."""
    storage: Path

    @classmethod
    def of(cls, fine_tune: FineTune, storage: Path) -> Self:
        """Train a case of the user's own."""

        def case(name: str, steps: int) -> FineTune:
            method = method_at(*split_adapter_name(name))
            return dataclasses.replace(adapted_by(fine_tune, method), steps=steps)

        return cls(case=case, storage=storage)

    def chosen_by(self, name: str, *, seed: int, steps: int, rate: float = 1.0) -> float:
        """Return the score that chooses steps and rates: of other seeds and test data."""
        at = (steps,)
        return self.points(name, seed=_CHOOSING + seed, at=at, rate=rate, half=1)[-1].score

    @single_thread()
    @undisturbed()
    def points(
        self, name: str, *, seed: int, at: Sequence[int], rate: float = 1.0, half: int = 0
    ) -> list[Point]:
        """Train up to the last of some steps, and return the scores at each.

        rate: a multiple of what the optimizer of the case has. half: 0 for every second item of the
        test data, 1 for the others. Raises what a library raises.
        """
        recipe = Recipe.of(self.case(name, at[-1]), self.storage)
        data, found = recipe.load_data(), []
        tests = _half(data, half, recipe)
        model = recipe.adapted_model(seed)
        optimizer = recipe.make_optimizer(model)
        for group in optimizer.param_groups:
            group["lr"] *= rate

        def on_step(step: int) -> None:
            if step in at:
                found.append(_point(recipe, model, tests))
                recipe.set_mode(model)

        with warnings.catch_warnings(action="ignore"):
            batches = recipe.batches(data, seed=seed)
            recipe.train(model, optimizer, batches, seed=seed, on_step=on_step)
        return found

    @single_thread()
    @undisturbed()
    def before(self) -> tuple[float, float | None]:
        """Return the score of the untrained model, and that of naming the commonest class."""
        recipe = Recipe.of(self.case(FULL, 1), self.storage)
        data, model = recipe.load_data(), recipe.base_model(0)
        batches = _half(data, 0, recipe)
        scores = recipe.objective.scores(model, [on_device(b, device_of(model)) for b in batches])
        if "score" in scores or "accuracy" not in scores:
            return scores.get("score", -scores["loss"]), None
        labels = torch.cat([batch[1] for batch in batches if is_pair(batch)]).tolist()
        return scores["accuracy"], max(Counter(labels).values()) / len(labels)


def _half(data: Data, offset: int, recipe: Recipe) -> list[Any]:
    """Return every second item of the test data as batches."""
    items = data.test
    every = Items(
        (items.count + 1 - offset) // 2,
        lambda chosen: items.batch([2 * int(position) + offset for position in chosen]),
    )
    return list(dataclasses.replace(data, test=every).test_batches(recipe.test_batch))


def _point(recipe: Recipe, model: Any, tests: Sequence[Any]) -> Point:
    batches = [on_device(batch, device_of(model)) for batch in tests]
    scores = recipe.objective.scores(model, batches)
    own = recipe.fine_tune.metrics or {}
    return Point(
        score=scores.get("score", scores.get("accuracy", -scores["loss"])),
        parts={name: one.measure(model, batches) for name, one in own.items()},
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """For how long methods are trained, and which of them."""

    names: Sequence[str]
    """Methods with their ranks; full fine-tuning is trained first in any case."""
    start: int
    """The first number of steps that full fine-tuning gets."""
    steps: int | None = None
    """Train for so many, whether full fine-tuning still learns or not."""
    seeds: int = 5
    points: float = POINTS
    """The margin within which two scores are equal, in points."""
    ends: float = math.inf
    """When no further training begins, as `time.monotonic` counts."""
    stops_behind: bool = True
    """Whether a method that is clearly worse is stopped early."""
    say: Callable[[str], None] = print


def begin(trainer: Trainer, plan: Plan, *, images: str, batch: int) -> Study:
    """Return a study without methods: how the untrained model does, and how long to train.

    Full fine-tuning is trained for `start` steps, twice as many, and so on, until twice the steps
    gain no more than a point and it is above chance. With `steps` it is trained for half of them
    and for all. Raises what a library raises.
    """
    before, chance = trainer.before()
    study = Study(
        images=images, batch=batch, steps=0, chance=chance, untrained=before, curve={}, methods={}
    )
    grown = [plan.start * 2**power for power in range(_DOUBLINGS + 1)]
    seconds = 0.0
    for steps in grown if plan.steps is None else (max(1, plan.steps // 2), plan.steps):
        if time.monotonic() + 2 * seconds > plan.ends:
            break
        began = time.monotonic()
        scores = [trainer.chosen_by(FULL, seed=seed, steps=steps) for seed in range(2)]
        reached = statistics.fmean(scores)
        plan.say(f"full after {steps:,} steps: {reached:.4g}")
        study = msgspec.structs.replace(study, curve={**study.curve, steps: reached}, steps=steps)
        if plan.steps is None and not why_not_learned(study):
            return msgspec.structs.replace(study, steps=steps // 2)
        seconds = time.monotonic() - began
    return study


def add_method(trainer: Trainer, plan: Plan, study: Study, name: str) -> Study:
    """Return the study with one method more: its best rate, then its scores by seed.

    Of five rates the better two after an eighth of the steps are trained for half of them. A method
    that is clearly worse than the best so far is stopped. Raises what a library raises.
    """
    best = max(study.methods.values(), key=lambda one: statistics.fmean(one.final), default=None)
    margin = margin_of(study, plan.points)
    rates: Sequence[float] = RATES
    for share, kept in ((8, 2), (2, 1)):
        steps = max(1, study.steps // share)
        scores = {}
        for rate in rates:
            with contextlib.suppress(NonFiniteLossError):
                scores[rate] = trainer.chosen_by(name, seed=0, steps=steps, rate=rate)
        if not scores:
            raise InputError("its loss is not finite at any rate")
        rates = sorted(scores, key=lambda rate: -scores[rate])[:kept]
    reached = scores[rates[0]]
    plan.say(f"{name}: {reached:.4g} at {rates[0]:g} times its rate")
    is_behind = best is not None and reached < statistics.fmean(best.final) - _CLEARLY * margin
    if plan.stops_behind and is_behind and name != FULL:
        return msgspec.structs.replace(study, stopped={**study.stopped, name: reached})
    found: list[list[Point]] = []
    for seed in range(plan.seeds):
        at = sorted({max(1, study.steps // 10), study.steps})
        found.append(trainer.points(name, seed=seed, at=at, rate=rates[0]))
        finals = [points[-1].score for points in found]
        plan.say(f"{name}, seed {seed}: {finals[-1]:.4g}")
        if best is not None and plan.stops_behind and len(finals) >= _BEFORE_STOPPING:
            below = difference(finals, best.final)
            if below.mean + below.half < -margin:
                break
    trained = Trained(
        rate=rates[0],
        early=tuple(points[0].score for points in found),
        final=tuple(points[-1].score for points in found),
        parts={
            part: statistics.fmean(points[-1].parts[part] for points in found)
            for part in found[0][-1].parts
        },
    )
    return msgspec.structs.replace(study, methods={**study.methods, name: trained})


def study_of(
    trainer: Trainer, plan: Plan, *, images: str, batch: int
) -> tuple[Study | None, dict[str, str], list[str]]:
    """Return a study of a plan's methods, why some cannot be trained, and those not tried in time.

    Where full fine-tuning has not learned, or cannot be trained, no other method is trained.
    """
    failed: dict[str, str] = {}
    try:
        study = begin(trainer, plan, images=images, batch=batch)
    except Exception as error:  # noqa: BLE001  (whatever the case or a library raises)
        return None, {FULL: told(error)}, []
    names = [FULL, *(name for name in plan.names if name != FULL)]
    if why_not_learned(study):
        return study, failed, []
    for at, name in enumerate(names):
        if time.monotonic() > plan.ends:
            return study, failed, names[at:]
        try:
            study = add_method(trainer, plan, study, name)
        except Exception as error:  # noqa: BLE001  (whatever the case or a library raises)
            failed[name] = told(error)
    return study, failed, []


def as_code(fine_tune: FineTune, study: Study, name: str) -> str:
    """Return the case with a candidate's adapter, to paste where its functions are known."""
    method = method_at(*split_adapter_name(name))
    adapted = dataclasses.replace(adapted_by(fine_tune, method), steps=study.steps)
    lines, notes = [f'    "{adapted.id}",'], []
    for given in dataclasses.fields(FineTune):
        value = getattr(adapted, given.name, None)
        if given.name in {"id", "case", "_"} or value == given.default:
            continue
        if given.name in {"bounds", "budget"} and adapted.id != fine_tune.id:
            notes.append(f"# without the {given.name} of {fine_tune.id}, a case of another method")
            continue
        shown = getattr(value, "__name__", None) if callable(value) else repr(value)
        lines.append(f"    {given.name}={shown or '...'},")
    rate = study.methods[name].rate
    if rate != 1:
        notes.append(f"# trained at {rate:g} times the learning rate of its optimizer")
    return "\n".join(("FineTune(", *lines, ")", *notes))
