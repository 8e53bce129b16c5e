"""Build what a case trains: its model, adapted, its optimizer, its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.matrix import check_rank
from peft_regress.catalogue.methods.parts import cast_base
from peft_regress.measure.sources import build_source
from peft_regress.measure.training import finetune, training_steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer

    from peft_regress.cases import Case
    from peft_regress.catalogue.architectures.protocol import Architecture
    from peft_regress.catalogue.methods.protocol import Method
    from peft_regress.catalogue.tasks.protocol import Task, TaskData
    from peft_regress.measure.training import TrainingRun


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """A method on an architecture at a rank: all that the cost of a training step depends on."""

    method: Method
    architecture: Architecture
    rank: int | None = None

    @classmethod
    def of(cls, names: Adaptation) -> ModelRecipe:
        """Look the names up.

        Raises `UnknownNameError` for a name that is not registered, `InputError` for a wrong rank.
        """
        architecture = registry.get("architecture", names.architecture)
        check_rank(names.method, names.rank)
        method = registry.get("method", names.method)
        return cls(method=method, architecture=architecture, rank=names.rank)

    @property
    def names(self) -> Adaptation:
        """Return the names of the parts."""
        return Adaptation(
            method=self.method.name, architecture=self.architecture.name, rank=self.rank
        )

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Return the base model as the method wraps it; the base must not be used afterwards."""
        return self.method.adapt(base, heads=(self.architecture.head,), rank=self.rank, seed=seed)

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of an adapted model."""
        return self.method.make_optimizer(model, rank=self.rank)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A case with its parts looked up."""

    case: Case
    baselines: Path
    """The folder with `sources/` and `adapters/`."""
    model: ModelRecipe
    task: Task

    @classmethod
    def of(cls, case: Case, baselines: Path) -> Recipe:
        """Look the parts up by name.

        Raises `UnknownNameError` for a name that is not registered, `InputError` for a wrong rank.
        """
        task = registry.get("task", case.task)
        model = ModelRecipe.of(case.adaptation)
        return cls(case=case, baselines=baselines, model=model, task=task)

    def load_data(self) -> TaskData:
        """Return the task's images in the method's floating-point type."""
        return self.task.load().cast(self.model.method.base_dtype)

    def base_model(self, seed: int) -> nn.Module:
        """Return the source model, prepared for the task."""
        architecture = self.model.architecture
        model = build_source(self.baselines, architecture)
        self.task.prepare(model, head=architecture.head, seed=seed)
        return cast_base(model, self.model.method.base_dtype)

    def adapted_model(self, seed: int) -> nn.Module:
        """Return the base model as the method wraps it."""
        return self.model.adapt(self.base_model(seed), seed=seed)

    def train(
        self, model: nn.Module, optimizer: Optimizer, data: TaskData, *, seed: int, first: int
    ) -> TrainingRun:
        """Run the whole training loop of the method, and keep the first losses."""
        return finetune(
            model,
            optimizer,
            data,
            seed=seed,
            first=first,
            batch_norm_statistics=self.model.method.trains_batch_norm_statistics,
        )

    def steps(self, data: TaskData, *, seed: int) -> Iterator[tuple[float, float]]:
        """Adapt a fresh model, then take one step of the same loop each time one is asked for."""
        model = self.adapted_model(seed)
        return training_steps(
            model,
            self.model.make_optimizer(model),
            data,
            seed=seed,
            batch_norm_statistics=self.model.method.trains_batch_norm_statistics,
        )
