"""What galore_torch, and the projectors of this project, could get wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fault_catalogue.fault import fault

if TYPE_CHECKING:
    from torch import Tensor

    from fault_catalogue.fault import Original

_GALORE: Final = "shift/galore-r4/shufflenet_v2_x0_5"
_CLONED: Final = "shift/galore-cloned-r4/shufflenet_v2_x0_5"
_PROJECTOR: Final = "galore_torch.galore_projector:GaLoreProjector"
_STEP: Final = "galore_torch.adamw:AdamW.step"


@fault("GaLore", at=f"{_PROJECTOR}.project", case=_GALORE)
def galore_never_refreshed(original: Original, self: Any, grad: Tensor, step: int) -> Any:
    """The subspace of the first step is kept for ever."""
    return original(self, grad, step if self.ortho_matrix is None else 1)


@fault("GaLore", at=f"{_PROJECTOR}.project", case=_GALORE)
def galore_refreshed_at_each_step(original: Original, self: Any, grad: Tensor, _step: int) -> Any:
    """The SVD is computed at each step instead of every fifteenth step."""
    return original(self, grad, 0)


@fault("GaLore", at=f"{_PROJECTOR}.__init__", case=_GALORE)
def galore_on_the_wrong_side(original: Original, self: Any, *args: Any, **kwargs: Any) -> None:
    """The longer side of the matrix is projected instead of the shorter."""
    original(self, *args, **{**kwargs, "proj_type": "reverse_std"})


@fault("GaLore", at=f"{_PROJECTOR}.__init__", case=_GALORE)
def galore_rank_clamped(original: Original, self: Any, rank: int, **kwargs: Any) -> None:
    """A rank above 2 becomes 2, without a message."""
    original(self, min(rank, 2), **kwargs)


@fault("GaLore", at=f"{_PROJECTOR}.project_back", case=_GALORE)
def galore_scale_ignored(original: Original, self: Any, low_rank: Tensor) -> Any:
    """The update is not multiplied by the scale."""
    right, self.scale = self.scale, 1.0
    try:
        return original(self, low_rank)
    finally:
        self.scale = right


@fault("GaLore", at=f"{_PROJECTOR}.project", case=_GALORE)
def galore_gradient_kept_alive(original: Original, self: Any, grad: Tensor, step: int) -> Any:
    """The projector keeps the last gradient of full size."""
    self.last_gradient = grad
    return original(self, grad, step)


@fault(
    "GaLore",
    at="peft_regress.catalogue.methods.galore_projector:CloningProjector.get_orthogonal_matrix",
    case=_CLONED,
)
def galore_whole_svd_kept(_original: Original, self: Any, *args: Any, **kwargs: Any) -> Any:
    """The cloning projector keeps a slice, and with it all singular vectors in memory."""
    from galore_torch.galore_projector import GaLoreProjector

    return GaLoreProjector.get_orthogonal_matrix(self, *args, **kwargs)


@fault("GaLore", at=_STEP, case=_GALORE)
def galore_moments_reset(original: Original, self: Any, closure: None = None) -> Any:
    """Adam's moments are set to zero at each refresh of the subspace."""
    for group in self.param_groups:
        for parameter in group["params"]:
            state = self.state[parameter]
            if "rank" in group and state.get("step", 1) % group["update_proj_gap"] == 0:
                state["exp_avg"].zero_()
                state["exp_avg_sq"].zero_()
    return original(self, closure)


@fault("GaLore", at=_STEP, case=_GALORE)
def galore_second_group_skipped(original: Original, self: Any, closure: None = None) -> Any:
    """Only the first group of parameters is updated, the projected ones."""
    groups = self.param_groups
    self.param_groups = groups[:1]
    try:
        return original(self, closure)
    finally:
        self.param_groups = groups
