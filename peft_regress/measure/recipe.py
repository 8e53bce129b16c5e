"""Build what a case trains: its model, adapted, its optimizer, its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft_regress import registry
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

__all__ = ["Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A case with its parts looked up; `baselines` is the folder with `sources/`."""

    case: Case
    baselines: Path
    method: Method
    architecture: Architecture
    task: Task

    @classmethod
    def of(cls, case: Case, baselines: Path) -> Recipe:
        """Layout the parts up by name; raises `UnknownNameError`."""
        return cls(
            case=case,
            baselines=baselines,
            method=registry.get("method", case.method),
            architecture=registry.get("architecture", case.architecture),
            task=registry.get("task", case.task),
        )

    def load_data(self) -> TaskData:
        """Return the task's images in the method's floating-point type."""
        return self.task.load().cast(self.method.base_dtype)

    def base_model(self, seed: int) -> nn.Module:
        """Return the source model made ready for the task."""
        model = build_source(self.baselines, self.architecture)
        self.task.prepare(model, head=self.architecture.head, seed=seed)
        return cast_base(model, self.method.base_dtype)

    def adapt(self, base: nn.Module, seed: int) -> nn.Module:
        """Return the base model as the method wraps it; the base must not be used afterwards."""
        return self.method.adapt(base, head=self.architecture.head, rank=self.case.rank, seed=seed)

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer of an adapted model."""
        return self.method.make_optimizer(model, rank=self.case.rank)

    def train(
        self, model: nn.Module, optimizer: Optimizer, data: TaskData, *, seed: int, first: int
    ) -> TrainingRun:
        """Run the whole training loop as the method fine-tunes, and keep the first losses."""
        return finetune(
            model,
            optimizer,
            data,
            seed=seed,
            first=first,
            batch_norm_statistics=self.method.trains_batch_norm_statistics,
        )

    def steps(self, data: TaskData, *, seed: int) -> Iterator[tuple[float, float]]:
        """Adapt a fresh model and take the same steps, each when it is asked for."""
        model = self.adapt(self.base_model(seed), seed)
        return training_steps(
            model,
            self.make_optimizer(model),
            data,
            seed=seed,
            batch_norm_statistics=self.method.trains_batch_norm_statistics,
        )
