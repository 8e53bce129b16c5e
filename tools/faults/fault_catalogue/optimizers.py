"""What torch, galore_torch, or a library that brings its own, could get wrong in an optimizer."""

from typing import Final
from unittest.mock import patch

import torch

from fault_catalogue.fault import Faults, fault, passing

# The head alone: what an optimizer gets wrong shows in any parameter, and these bounds are tight.
_ZERO: Final = "torch.optim.optimizer:Optimizer.zero_grad"
_PROJECTOR: Final = "galore_torch.galore_projector:GaLoreProjector"
_STEP: Final = "galore_torch.adamw:AdamW.step"


def second_moment_in(dtype):
    """Return a fault of Adam."""

    @fault(at="torch.optim.adamw:AdamW._init_group")
    def replacement(original, self, group, *lists):
        found = original(self, group, *lists)
        parameters, _, _, squares, *_ = lists
        for index, parameter in enumerate(parameters):
            state = self.state[parameter]
            state["exp_avg_sq"] = squares[index] = state["exp_avg_sq"].to(dtype)
        return found

    replacement.__doc__ = f"The second moment is kept in {str(dtype).removeprefix('torch.')}."
    return replacement


class Settings(Faults, area="optimizers", case="head", at="torch.optim.adamw:AdamW.__init__"):
    adam_decays_weights = passing("Weight decay is 0.01 instead of 0.", {"weight_decay": 0.01})
    adam_eps_changed = passing("Eps is 1e-8, torch's default, instead of 1e-6.", {"eps": 1e-8})
    adam_betas_swapped = passing("The two decay rates are swapped.", {"betas": (0.999, 0.9)})
    adam_keeps_a_third_moment = passing("AMSGrad keeps a third moment.", {"amsgrad": True})
    adam_ignores_foreach = passing(
        "One kernel updates all tensors although foreach=False was asked for.",
        {"foreach": True},
        stops=True,
    )
    loraplus_ratio_ignored = passing(
        "LoRA+ gives B the learning rate of A.",
        {"loraplus_lr_ratio": 1},
        at="peft.optimizers:create_loraplus_optimizer",
        case="loraplus-r4",
    )
    gradients_kept_alive = passing(
        "Gradients are set to zero instead of freed, and stay in memory in the forward pass.",
        {"set_to_none": False},
        at=_ZERO,
        case="full",
    )


class Optimizers(Faults, area="optimizers", case="head"):
    @fault(at="torch.optim.adam:_get_value")
    def adam_without_bias_correction(original, step):
        """The moments are not corrected for their start at zero."""
        return original(step) + 1e6

    @fault(at="torch.optim.adam:_single_tensor_adam")
    def adam_copies_each_gradient(original, params, grads, *args, **kwargs):
        """Each gradient is copied before it is used: the same update by a slower step."""
        original(params, [grad.clone() for grad in grads], *args, **kwargs)

    adam_second_moment_in_bfloat16 = second_moment_in(torch.bfloat16)
    adam_second_moment_in_float64 = second_moment_in(torch.float64)

    @fault(at="torch.optim.optimizer:Optimizer.add_param_group")
    def optimizer_skips_a_parameter(original, self, group):
        """The last parameter of a group is never updated."""
        original(self, {**group, "params": list(group["params"])[:-1]})

    @fault(at=_ZERO)
    def gradients_accumulate(_original, self, set_to_none=True):
        """Gradients are not set to zero between steps, so that they add up."""
        self.last_asked = set_to_none


class Galore(Faults, area="GaLore", case="galore-r4"):
    @fault(at=f"{_PROJECTOR}.project")
    def galore_never_refreshed(original, self, grad, step):
        """The subspace of the first step is kept for ever."""
        return original(self, grad, step if self.ortho_matrix is None else 1)

    @fault(at=f"{_PROJECTOR}.project")
    def galore_refreshed_at_each_step(original, self, grad, _step):
        """The SVD is computed at each step instead of every fifteenth step."""
        return original(self, grad, 0)

    galore_on_the_wrong_side = passing(
        "The longer side of the matrix is projected instead of the shorter.",
        {"proj_type": "reverse_std"},
        at=f"{_PROJECTOR}.__init__",
    )

    @fault(at=f"{_PROJECTOR}.__init__")
    def galore_rank_clamped(original, self, rank, **kwargs):
        """A rank above 2 becomes 2, without a message."""
        original(self, min(rank, 2), **kwargs)

    @fault(at=f"{_PROJECTOR}.project_back")
    def galore_scale_ignored(original, self, low_rank):
        """The update is not multiplied by the scale."""
        with patch.object(self, "scale", 1.0):
            return original(self, low_rank)

    @fault(at=f"{_PROJECTOR}.project")
    def galore_gradient_kept_alive(original, self, grad, step):
        """The projector keeps the last gradient of full size."""
        self.last_gradient = grad
        return original(self, grad, step)

    @fault(
        at="peft_regress.catalogue.methods.galore_projector:CloningProjector.get_orthogonal_matrix",
        case="galore-cloned-r4",
    )
    def galore_whole_svd_kept(_original, self, *args, **kwargs):
        """The cloning projector keeps a slice, and with it all singular vectors in memory."""
        from galore_torch.galore_projector import GaLoreProjector

        return GaLoreProjector.get_orthogonal_matrix(self, *args, **kwargs)

    @fault(at=_STEP)
    def galore_moments_reset(original, self, closure=None):
        """Adam's moments are set to zero at each refresh of the subspace."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "rank" in group and state.get("step", 1) % group["update_proj_gap"] == 0:
                    state["exp_avg"].zero_()
                    state["exp_avg_sq"].zero_()
        return original(self, closure)

    @fault(at=_STEP)
    def galore_second_group_skipped(original, self, closure=None):
        """Only the first group of parameters is updated, the projected ones."""
        with patch.object(self, "param_groups", self.param_groups[:1]):
            return original(self, closure)
