"""A fine-tuning made ready to measure: build its model, adapt it, batch its data, train it."""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from peft_regress.cases import Case
from peft_regress.catalogue.built_in import TEST_BATCH, BuiltIn, built_in
from peft_regress.catalogue.methods.method import Method
from peft_regress.errors import InputError
from peft_regress.imports import CaseError, calling
from peft_regress.measure import training
from peft_regress.measure.data import Data
from peft_regress.measure.objective import Objective
from peft_regress.measure.own_adapters import adapter_of
from peft_regress.project.fine_tune import FineTune
from peft_regress.project.script import OwnCase, Script
from peft_regress.runs.environment import imported_packages, loaded_packages, packages_with

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A fine-tuning with its adapter looked up and its loss chosen."""

    fine_tune: FineTune
    baselines: Path
    """The folder with `sources/` and `adapters/`."""
    adapter: Method
    objective: Objective

    @classmethod
    def of(cls, case: Case | OwnCase, baselines: Path) -> Self:
        """Look up a built-in case, or take a fine-tuning as it is.

        Raises `UnknownNameError` for a name that is not registered, `InputError` for a wrong rank.
        """
        fine_tune = built_in(case, baselines) if isinstance(case, Case) else case
        if isinstance(fine_tune, Script):
            raise InputError(
                f"Script {fine_tune.id!r} is no FineTune: `peft-regress watch {fine_tune.script}` "
                "shows what a step of it costs and takes"
            )
        try:
            adapter = adapter_of(fine_tune)
        except InputError as error:
            if isinstance(case, Case) or fine_tune.id in str(error):
                raise
            raise InputError(f"FineTune {fine_tune.id!r}: {error}") from error
        name, loss, score = f"FineTune {fine_tune.id!r}", fine_tune.loss, fine_tune.score
        objective = Objective(own_loss=loss, own_score=score, name=name)
        return cls(fine_tune=fine_tune, baselines=baselines, adapter=adapter, objective=objective)

    def checked(self, data: Data) -> Self:
        """Return an own case whose adapter also ships the buffers that training moves.

        Takes one loss of the unadapted model. Raises `CaseError` if that fails, or is not finite.
        """
        seed = self.seeds[0]
        base = self.base_model(seed)
        before = {key: tensor.clone() for key, tensor in base.named_buffers()}
        self.set_mode(base)
        training.seed_all(seed)
        batch = training.on_device(next(self.batches(data, seed=seed)), training.device_of(base))
        with self.calling("before any adapter, the loss of the first batch"), torch.no_grad():
            loss = self.objective.loss(base, batch).item()
        if not math.isfinite(loss):
            raise CaseError(
                f"FineTune {self.case.id!r}: before any adapter, the loss of the first batch is "
                f"{loss}"
            )
        after = base.named_buffers()
        moving = frozenset(key for key, now in after if not torch.equal(now, before[key]))
        return dataclasses.replace(self, adapter=dataclasses.replace(self.adapter, moving=moving))

    @property
    def case(self) -> Case:
        """Return the names of the case."""
        return self.fine_tune.case

    @property
    def is_own(self) -> bool:
        """Return whether the case is the user's own, not the catalogue's."""
        return not isinstance(self.fine_tune, BuiltIn)

    @property
    def runs_in_executorch(self) -> bool:
        """Return whether the case is exported and run in ExecuTorch, and not trained here."""
        return isinstance(self.fine_tune, BuiltIn) and self.fine_tune.runs_in_executorch

    @property
    def has_own_step(self) -> bool:
        """Return whether its costs are of its own batches, not of the catalogue's images."""
        return self.is_own or self.runs_in_executorch

    def packages(self) -> dict[str, str]:
        """Return the versions of what a measured case uses beyond this package's requirements."""
        if self.is_own:
            return imported_packages()
        return packages_with(["executorch"]) if self.runs_in_executorch else {}

    @staticmethod
    def loaded() -> set[str]:
        """Return the packages of which a measured case has loaded a module."""
        return loaded_packages()

    @property
    def seeds(self) -> range:
        """Return the seeds of its rounds."""
        return range(self.fine_tune.seeds)

    @property
    def test_batch(self) -> int:
        """Return the size of a test batch."""
        return self.fine_tune.batch if self.is_own else TEST_BATCH

    def load_data(self) -> Data:
        """Return the data, its floating-point tensors in the adapter's type.

        An own case's may be drawn at random: the first seed is set before.

        Raises `InputError` for data that no training can use, `CaseError` if the function fails.
        """
        if self.is_own:
            training.seed_all(self.seeds[0])
        with self.calling("data()"):
            return Data.of(self.fine_tune, dtype=self.adapter.dtype)

    def calling(self, function: str) -> AbstractContextManager[None]:
        """Return a context for a function of the case: what an own one raises is a `CaseError`."""
        name = f"FineTune {self.case.id!r}: {function}"
        return calling(name) if self.is_own else contextlib.nullcontext()

    def _made(self, kind: type[_Made], how: str, make: Callable[..., object], *parts: Any) -> _Made:
        """Return what a function makes. Raises `InputError` for another kind, or `CaseError`."""
        with self.calling(how):
            made = make(*parts)
        if not isinstance(made, kind):
            raise InputError(
                f"FineTune {self.case.id!r}: {how} returned a {type(made).__name__}, no "
                f"{kind.__name__}"
            )
        return made

    def base_model(self, seed: int) -> nn.Module:
        """Return the unadapted model, built under a seed; raises what `_made` raises."""
        training.seed_all(seed)
        model = self._made(nn.Module, "model()", self.fine_tune.model)
        if self.is_own:  # the function may keep it for the next time
            model = copy.deepcopy(model)
        dtype = self.adapter.dtype
        return model if dtype is None else model.to(dtype)

    def adapted_model(self, seed: int) -> nn.Module:
        """Return the base model as the adapter wraps it."""
        return self.adapt(self.base_model(seed), seed=seed)

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Return the base as the adapter wraps it; the base must not be used afterwards."""
        training.seed_all(seed)
        return self.adapter.adapt(base, seed=seed)

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the case's own optimizer of an adapted model, or the adapter's."""
        own = self.fine_tune.optimizer
        if own is None:
            return self.adapter.make_optimizer(model)
        return self._made(torch.optim.Optimizer, "optimizer(model)", own, model)

    def set_mode(self, model: nn.Module) -> None:
        """Put a model in the mode that the case trains in. Raises `CaseError` if that fails."""
        mode = self.fine_tune.mode
        if callable(mode):
            with self.calling("mode(model)"):
                mode(model)
        else:
            model.train(mode == "train")

    @property
    def loop(self) -> training.Loop:
        """Return the training loop."""
        own = self.fine_tune.schedule
        return training.Loop(
            steps=self.fine_tune.steps,
            loss=self.objective.loss,
            set_mode=self.set_mode,
            schedule=own and partial(self._made, LRScheduler, "schedule(optimizer)", own),
        )

    def batches(self, data: Data, *, seed: int) -> Iterator[Any]:
        """Yield the training batches of a seed, without end."""
        return data.training_batches(self.fine_tune.batch, seed=seed)

    def train(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Iterable[Any],
        *,
        seed: int,
        **options: Any,
    ) -> training.TrainingRun:
        """Run the training loop, or only some steps of it; the options are those of `finetune`."""
        training.seed_all(seed)
        return training.finetune(model, optimizer, batches, self.loop, seed=seed, **options)

    def steps(self, data: Data, *, seed: int) -> Iterator[tuple[float, float]]:
        """Adapt a fresh model, then take one step of the same loop each time one is asked for."""
        model = self.adapted_model(seed)
        optimizer = self.make_optimizer(model)
        training.seed_all(seed)
        batches = self.batches(data, seed=seed)
        return training.training_steps(model, optimizer, batches, self.loop, seed=seed)
