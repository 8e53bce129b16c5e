"""An adapter of the user's own: a callable that takes the model and returns the adapted one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_regress.cases import Json
from peft_regress.catalogue.methods.parts import load_tensors, save_tensors
from peft_regress.errors import InputError
from peft_regress.measure.adapters.heads import find_heads, moved_buffers
from peft_regress.measure.adapters.unruled import UnruledAdapter
from peft_regress.measure.seeding import seed_all
from peft_regress.metrics import Numerics

_FILE: Final = "trained.safetensors"
# Not the seed of a case's first round: what must be shipped must not come from the seed.
_LOADING_SEED: Final = 1_000_003


@dataclass(frozen=True, kw_only=True)
class CallableAdapter(UnruledAdapter):
    """Wraps a model by the user's function; nothing is known of it but what trains."""

    wrap: Callable[[nn.Module], Any]
    heads: tuple[str, ...] = ()
    moving: frozenset[str] = frozenset()
    dtype: torch.dtype | None = None
    numerics: Numerics = "usual"
    prunes: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    alters_base: bool = False
    trains_batch_norm_statistics: bool = False
    adapter_in_float32: bool = False
    starts_elsewhere: str = "an adapter of one's own may start anywhere"
    loads_for_use_only: str = ""
    grows_with_rank: bool = True

    def shipping(self, moving: frozenset[str]) -> CallableAdapter:
        """Return one that also ships these buffers."""
        return dataclasses.replace(self, moving=moving)

    def definition(self) -> Json:
        """Return that it is a callable: its code defines nothing."""
        return "callable"

    def settings(self) -> dict[str, Json]:
        """Return the same by name."""
        return {"class": "callable"}

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002  (set before)
        """Call the function, and let the heads train.

        Raises `InputError` if it returns no module, or freezes no parameter.
        """
        heads = find_heads(base, self.heads)
        adapted: object = self.wrap(base)
        if not isinstance(adapted, nn.Module):
            raise InputError(
                f"the adapter returned a {type(adapted).__name__}, not the adapted model"
            )
        for head in heads.values():
            head.requires_grad_(requires_grad=True)
        if all(parameter.requires_grad for parameter in adapted.parameters()):
            raise InputError(
                "the adapter freezes nothing: every parameter of the model trains. Let it call "
                "requires_grad_(False) on the model, or use adapter='full'"
            )
        return adapted

    def adapter_parameters(self, adapted: nn.Module) -> list[str]:
        """Return nothing: which parameters are the adapter's is not known."""
        del adapted
        return []

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return what trains, and statistics that may move."""
        trained = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        return {**trained, **dict(moved_buffers(model, self.moving))}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped."""
        save_tensors(self.shipped_tensors(model), folder / _FILE)

    def load(self, base: nn.Module, folder: Path, *, trainable: bool) -> nn.Module:
        """Wrap a fresh base under another seed, and read what trains into it."""
        seed_all(_LOADING_SEED)
        adapted = self.adapt(base, seed=_LOADING_SEED)
        load_tensors(dict(self.shipped_tensors(adapted)), folder / _FILE)
        if not trainable:
            adapted.requires_grad_(requires_grad=False)
        return adapted

    def disabled(
        self,
        model: nn.Module,  # noqa: ARG002  (protocol)
    ) -> AbstractContextManager[None] | None:
        """Return None: nothing is known of how it is switched off."""
        return None

    def merge(
        self,
        model: nn.Module,  # noqa: ARG002  (protocol)
    ) -> nn.Module | None:
        """Return None: nothing is known of how it is merged."""
        return None

    def doubled(self) -> CallableAdapter | None:
        """Return None: it has no rank."""
        return None
