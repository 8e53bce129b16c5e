"""A built-in method at a rank, with the heads of a model, as an adapter."""

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
from peft_regress.catalogue.methods.protocol import Method
from peft_regress.measure.adapters.heads import load_beside, moved_buffers, save_beside
from peft_regress.measure.adapters.names import PEFT_PREFIX
from peft_regress.metrics import Numerics


@dataclass(frozen=True, kw_only=True)
class MethodAdapter:
    """Passes on to the method; see `Adapter`."""

    method: Method
    rank: int | None
    heads: tuple[str, ...]
    starts_elsewhere: str = ""
    adapter_in_float32: bool = True
    loads_for_use_only: str = ""
    grows_with_rank: bool = True
    moving: frozenset[str] = frozenset()
    """Buffers that the training mode moves, which the method does not know of."""

    def shipping(self, moving: frozenset[str]) -> MethodAdapter:
        """Return one that also ships these buffers."""
        return dataclasses.replace(self, moving=moving)

    @property
    def dtype(self) -> torch.dtype | None:
        """Return the method's type, if it is not the usual one."""
        name = self.method.base_dtype
        return None if name == "float32" else getattr(torch, name)

    @property
    def numerics(self) -> Numerics:
        """Return the method's."""
        return self.method.numerics

    @property
    def prunes(self) -> tuple[str, ...]:
        """Return the method's."""
        return self.method.prunes

    @property
    def scales(self) -> tuple[str, ...]:
        """Return the method's."""
        return self.method.scales

    @property
    def alters_base(self) -> bool:
        """Return the method's."""
        return self.method.alters_base

    @property
    def trains_batch_norm_statistics(self) -> bool:
        """Return the method's."""
        return self.method.trains_batch_norm_statistics

    def definition(self) -> Json:
        """Return the method's settings."""
        return self.settings()

    def settings(self) -> dict[str, Json]:
        """Return the same by name."""
        return {"method": self.method.name, **self.method.hyperparameters(self.rank)}

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:
        """Let the method wrap the model."""
        return self.method.adapt(base, heads=self.heads, rank=self.rank, seed=seed)

    def expected_trainable(self, base: nn.Module) -> Mapping[str, tuple[int, ...]]:
        """Return what the method's rule derives."""
        return self.method.expected_trainable(base, heads=self.heads, rank=self.rank)

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        """Return what lies outside the heads."""
        heads = tuple(f"{head}." for head in self.heads)
        return [
            name
            for name, _ in adapted.named_parameters()
            if not name.removeprefix(PEFT_PREFIX).startswith(heads)
        ]

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return the method's optimizer."""
        return self.method.make_optimizer(model, rank=self.rank)

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        """Return the method's."""
        return self.method.projections(optimizer)

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the method's, and buffers that training moves."""
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
        """Save as the method's library does."""
        self.method.save(model, folder)
        save_beside(self._beside(model), folder)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        """Load as the method's library does."""
        adapted = self.method.load(base, folder, heads=self.heads, trainable=trainable)
        load_beside(self._beside(adapted), folder)
        return adapted

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        """Return the method's context."""
        return self.method.disabled(model)

    def merge(self, model: nn.Module) -> nn.Module | None:
        """Let the method merge."""
        return self.method.merge(model)

    def doubled(self) -> MethodAdapter | None:
        """Return the method at twice the rank."""
        return None if self.rank is None else dataclasses.replace(self, rank=2 * self.rank)
