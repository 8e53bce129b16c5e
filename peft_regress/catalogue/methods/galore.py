"""GaLore through galore_torch: everything trains, in a low-rank gradient space. No torch at import.

Source: Zhao et al., GaLore (2024), algorithm 2.
"""

# ruff: noqa: D102  (`Method` says what each returns)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress.cases import Json
from peft_regress.catalogue.methods.method import ADAMW, Method, Shapes, moved_buffers, whole_state
from peft_regress.catalogue.methods.targets import find_heads
from peft_regress.errors import UnsupportedCaseError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_MATRIX_DIMENSIONS: Final = (2, 4)


@dataclass(frozen=True, kw_only=True)
class GaLore(Method):
    """Train every parameter; linear and convolution weights through a projected gradient."""

    ranks: tuple[int, ...] = (1, 4, 16)
    update_proj_gap: int = 15
    """Steps between two SVDs; in a short run the library's 200 would hide whether it renews."""
    scale: float = 0.25
    proj_type: str = "std"
    clones_projection: bool = False
    """Whether to keep only the singular vectors in use; the library keeps all."""

    def settings(self) -> dict[str, Json]:
        """Return the arguments of the library's projector."""
        names = ("rank", "update_proj_gap", "scale", "proj_type")
        return {name: getattr(self, name) for name in names}

    def hyperparameters(self) -> dict[str, Json]:
        # Betas, eps and no weight decay are the library's defaults.
        return {
            **super().hyperparameters(),
            "optimizer": "GaLoreAdamW",
            **self.settings(),
            "targets": "2-D and 4-D weights, flattened to (out, in * height * width)",
            # Only here, so that the definition of the stock method stays the same.
            **({"clones_projection": True} if self.clones_projection else {}),
        }

    @property
    def has_own_optimizer(self) -> bool:
        return True

    def adapt(self, base: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002
        """Let everything train, in place; the optimizer does the rest."""
        find_heads(base, self.heads)
        # Here, since its import makes tensors, which are no cost of a training step.
        import_module("galore_torch")
        return base.requires_grad_(requires_grad=True)

    def expected_trainable(self, base: nn.Module) -> Shapes:
        return {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Return GaLoreAdamW, with weights of 2 and 4 dimensions in a group with a rank."""
        galore_torch = import_module("galore_torch")
        from peft_regress.catalogue.methods import galore_projector as own

        project = own.CloningProjector if self.clones_projection else own.FlatteningProjector
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        projected = [parameter for parameter in trained if parameter.ndim in _MATRIX_DIMENSIONS]
        plain = [parameter for parameter in trained if parameter.ndim not in _MATRIX_DIMENSIONS]
        if not projected:
            raise UnsupportedCaseError(
                f"{self.name}: {type(model).__name__} has no trainable weight of 2 or 4 dimensions"
            )
        settings = self.settings()
        groups: list[dict[str, Any]] = [{"params": projected, **settings}]
        groups += [{"params": plain}] if plain else []
        optimizer = galore_torch.GaLoreAdamW(
            groups, lr=self.learning_rate, no_deprecation_warning=True, **ADAMW
        )
        for parameter in projected:
            # The optimizer keeps a projector that it finds; otherwise it makes a stock one.
            optimizer.state[parameter]["projector"] = project(**settings)
        return cast("Optimizer", optimizer)

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        """Return the singular vectors in use of each projected weight, in the optimizer's order."""
        projected = optimizer.param_groups[0]["params"]
        projectors = (optimizer.state[parameter]["projector"] for parameter in projected)
        return {str(index): one.ortho_matrix for index, one in enumerate(projectors)}

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return all parameters and buffers: an update has full size after projecting back."""
        return {**moved_buffers(model, self.moving), **whole_state(model)}


GALORE = GaLore(name="galore", learning_rate=4e-3)
# On bfloat16 the library takes the SVD in float32 and keeps a cast copy of the slice: a cloning
# projector would change nothing.
GALORE_BF16 = replace(GALORE, name="galore-bf16", base_dtype="bfloat16", ranks=(4,), matrices=())
GALORE_CLONED = replace(
    GALORE, name="galore-cloned", clones_projection=True, ranks=(4,), matrices=("extended",)
)
