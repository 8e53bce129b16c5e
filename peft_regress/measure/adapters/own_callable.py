"""An adapter of the user's own: a callable that takes the model and returns the adapted one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from peft_regress.cases import Json
from peft_regress.catalogue.methods.method import load_tensors, save_tensors
from peft_regress.errors import InputError
from peft_regress.measure.adapters.adapter import Adapter
from peft_regress.measure.adapters.heads import find_heads, moved_buffers
from peft_regress.measure.seeding import seed_all

_FILE: Final = "trained.safetensors"
# Not the seed of a case's first round: what must be shipped must not come from the seed.
_LOADING_SEED: Final = 1_000_003


@dataclass(frozen=True, kw_only=True)
class CallableAdapter(Adapter):
    """Wraps a model by the user's function; nothing is known of it but what trains."""

    wrap: Callable[[nn.Module], Any]

    @property
    def adapter_in_float32(self) -> bool:
        """Return False: it promises nothing."""
        return False

    @property
    def starts_elsewhere(self) -> str:
        """Return that it may start anywhere."""
        return "an adapter of one's own may start anywhere"

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
