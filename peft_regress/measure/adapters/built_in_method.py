"""A built-in method at a rank, with the heads of a model, as an adapter."""

# ruff: noqa: D102  (`Adapter` says what each returns)

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from peft_regress.cases import Json
from peft_regress.catalogue.methods.method import Method
from peft_regress.measure.adapters.adapter import Adapter
from peft_regress.measure.adapters.heads import PEFT_PREFIX, load_beside, moved_buffers, save_beside
from peft_regress.metrics import Numerics


@dataclass(frozen=True, kw_only=True)
class MethodAdapter(Adapter):
    """Asks the method; it alone states what it sets, wraps and expects."""

    method: Method
    rank: int | None

    @property
    def dtype(self) -> torch.dtype | None:
        name = self.method.base_dtype
        return None if name == "float32" else getattr(torch, name)

    @property
    def numerics(self) -> Numerics:
        return self.method.numerics

    @property
    def prunes(self) -> tuple[str, ...]:
        return self.method.prunes

    @property
    def scales(self) -> tuple[str, ...]:
        return self.method.scales

    @property
    def alters_base(self) -> bool:
        return self.method.alters_base

    @property
    def trains_batch_norm_statistics(self) -> bool:
        return self.method.trains_batch_norm_statistics

    def definition(self) -> Json:
        return self.settings()

    def settings(self) -> dict[str, Json]:
        return {"method": self.method.name, **self.method.hyperparameters(self.rank)}

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        return self.method.adapt(base, heads=self.heads, rank=self.rank, seed=seed)

    def expected_trainable(self, base: nn.Module) -> Mapping[str, tuple[int, ...]]:
        return self.method.expected_trainable(base, heads=self.heads, rank=self.rank)

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        heads = tuple(f"{head}." for head in self.heads)
        return [
            name
            for name, _ in adapted.named_parameters()
            if not name.removeprefix(PEFT_PREFIX).startswith(heads)
        ]

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        return self.method.make_optimizer(model, rank=self.rank)

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        return self.method.projections(optimizer)

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {**self.method.shipped_tensors(model), **self._beside(model)}

    def _beside(self, model: nn.Module) -> dict[str, Tensor]:
        if not self.moving:
            return {}
        shipped = {tensor.data_ptr() for tensor in self.method.shipped_tensors(model).values()}
        return {
            name.removeprefix(PEFT_PREFIX): tensor
            for name, tensor in moved_buffers(model, self.moving)
            if tensor.data_ptr() not in shipped
        }

    def save(self, model: nn.Module, folder: Path) -> None:
        self.method.save(model, folder)
        save_beside(self._beside(model), folder)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        adapted = self.method.load(base, folder, heads=self.heads, trainable=trainable)
        load_beside(self._beside(adapted), folder)
        return adapted

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        return self.method.disabled(model)

    def merge(self, model: nn.Module) -> nn.Module | None:
        return self.method.merge(model)

    def doubled(self) -> MethodAdapter | None:
        return None if self.rank is None else dataclasses.replace(self, rank=2 * self.rank)
