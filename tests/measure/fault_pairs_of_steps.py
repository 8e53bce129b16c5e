"""Faults in what a step computes: its operators, numbers, tensors, settings and optimizer."""
# ruff: noqa: PLW0108  (each call of such a lambda makes new layers)

from __future__ import annotations

import functools
import math
import os
import random
from typing import Any

import numpy as np
import torch
from fault_pairs import Faults, adam, in_a_thread, net
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from peft_regress.cost import register_flop_formula

FAULTS = Faults()


def doubled(model: nn.Module, batch: Any) -> Tensor:
    dtype = next(model.parameters()).dtype
    return functional.cross_entropy(model(batch[0].to(dtype)), batch[1])


DOUBLE = {"model": lambda: net()().double(), "loss": doubled}


@FAULTS
def constant_in_a_custom_backward(is_faulty, patch):
    factor = 2.0 if is_faulty else 1.0

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * factor

    return {"model": net(Scale.apply)}


@FAULTS
def last_bit_of_a_scalar(is_faulty, patch):
    factor = math.nextafter(1.1, 2) if is_faulty else 1.1
    return {"model": lambda: net(lambda x: x * factor)().double(), "loss": doubled}


@FAULTS
def swapped_tensors_of_one_shape(is_faulty, patch):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))
            if is_faulty:
                self.a, self.b = self.b, self.a

        def forward(self, x: Tensor) -> Tensor:
            return x * self.a + self.b

    return {"model": lambda: net(Two())()}


@FAULTS
def swapped_order_of_layers(is_faulty, patch):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            one, two = (self.b, self.a) if is_faulty else (self.a, self.b)
            return two(one(x).relu())

    return {"model": lambda: net(Two())()}


@FAULTS
def probability_of_dropout(is_faulty, patch):
    return {"model": lambda: net(nn.Dropout(0.2 if is_faulty else 0.1))()}


@FAULTS
def draw_from_another_generator(is_faulty, patch):
    own = torch.Generator()

    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn(x.shape, generator=own if is_faulty else None)

    return {"model": net(noisy)}


@FAULTS
def other_seed_of_a_generator(is_faulty, patch):
    def noisy(x: Tensor) -> Tensor:
        own = torch.Generator().manual_seed(2 if is_faulty else 1)
        return x + torch.randn(x.shape, generator=own)

    return {"model": net(noisy)}


@FAULTS
def draws_by_numpy(is_faulty, patch):
    drawn = np.random.default_rng(2 if is_faulty else 1)
    return {"model": net(lambda x: x * float(drawn.uniform(0.5, 1.5)))}


@FAULTS
def a_rare_skip_drawn_by_random(is_faulty, patch):
    # Of each seed the first three draws are above both.
    chance = 0.35 if is_faulty else 0.01
    return {"model": net(lambda x: x * (0.0 if random.random() < chance else 1.0))}


@FAULTS
def a_rare_skip_drawn_by_numpy(is_faulty, patch):
    chance = 0.45 if is_faulty else 0.01
    return {"model": net(lambda x: x * (0.0 if np.random.rand() < chance else 1.0))}  # noqa: NPY002


@FAULTS
def element_of_a_constant_in_a_closure(is_faulty, patch):
    kept = torch.linspace(0.5, 1.5, 8)
    kept[5] += 1e-3 * is_faulty
    return {"model": net(lambda x: x * kept)}


@FAULTS
def one_of_two_equal_constants(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        one, two = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])
        one.mul_(2)
        return x * (one if is_faulty else two).sum()

    return {"model": net(layer)}


@FAULTS
def a_teacher_in_the_loss(is_faulty, patch):
    torch.manual_seed(5)
    teacher = nn.Linear(4, 3)
    with torch.no_grad():
        teacher.weight[0, 0] += 1e-3 * is_faulty

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch[0])
        return functional.mse_loss(model(batch[0]), wanted)

    return {"loss": loss}


@FAULTS
def rate_of_an_averaged_teacher(is_faulty, patch):
    torch.manual_seed(5)
    teacher = nn.Linear(4, 3).requires_grad_(False)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            if type(batch[0]) is Tensor:
                teacher.weight.lerp_(torch.ones(3, 4), 0.11 if is_faulty else 0.1)
        return functional.mse_loss(model(batch[0]), teacher(batch[0]).detach())

    return {"loss": loss}


@FAULTS
def a_forward_hook_that_moves_a_buffer(is_faulty, patch):
    def build() -> nn.Module:
        model = net()()
        model.register_buffer("scale", torch.ones(()))

        def hook(_: Any, __: Any, out: Tensor) -> Tensor:
            model.scale.mul_(0.8 if is_faulty else 0.9)
            return out * model.scale

        model[0].register_forward_hook(hook)
        return model

    return {"model": build}


@FAULTS
def a_hook_on_a_gradient(is_faulty, patch):
    def build() -> nn.Module:
        model = net()()
        model[0].bias.register_hook(lambda grad: grad * (1.5 if is_faulty else 1.0))
        return model

    return {"model": build, "optimizer": sgd}


@FAULTS
def a_full_backward_hook(is_faulty, patch):
    def build() -> nn.Module:
        model = net()()
        scale = 1.5 if is_faulty else 1.0
        model[2].register_full_backward_hook(lambda _, given, __: (given[0] * scale,))
        return model

    return {"model": build, "optimizer": sgd}


@FAULTS
def a_hook_after_a_gradient_is_accumulated(is_faulty, patch):
    def made(model: nn.Module) -> Any:
        scale = 1.5 if is_faulty else 1.0

        def hook(parameter: Tensor) -> None:
            parameter.grad.mul_(scale)

        model[0].bias.register_post_accumulate_grad_hook(hook)
        return sgd(model)

    return {"optimizer": made}


def sgd(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 1e-2, "foreach": False, **settings})


@FAULTS
def a_hook_of_the_optimizer(is_faulty, patch):
    def made(model: nn.Module) -> Any:
        optimizer = adam(model)

        def hook(*_: Any) -> None:
            with torch.no_grad():
                model[0].weight.mul_(0.99 if is_faulty else 1.0)

        optimizer.register_step_post_hook(hook)
        return optimizer

    return {"optimizer": made}


@FAULTS
def a_subclass_of_the_optimizer(is_faulty, patch):
    class Own(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["lr"] = 2e-2 if is_faulty else 1e-2
            return super().step(closure)

    return {"optimizer": lambda model: Own(model.parameters(), lr=1e-2, foreach=False)}


@FAULTS
def last_bit_of_a_beta(is_faulty, patch):
    beta = math.nextafter(0.9, 1) if is_faulty else 0.9
    return {"optimizer": lambda model: adam(model, betas=(beta, 0.999)), **DOUBLE}


@FAULTS
def last_bit_of_the_weight_decay(is_faulty, patch):
    decay = math.nextafter(64, 65) if is_faulty else 64.0
    return {"optimizer": lambda model: adam(model, weight_decay=decay), **DOUBLE}


@FAULTS
def epsilon(is_faulty, patch):
    return {"optimizer": lambda model: adam(model, eps=1e-7 if is_faulty else 1e-8)}


@FAULTS
def a_parameter_that_no_group_has(is_faulty, patch):
    def made(model: nn.Module) -> Any:
        kept = [p for name, p in model.named_parameters() if not (is_faulty and name == "0.bias")]
        return torch.optim.AdamW(kept, lr=1e-2, foreach=False)

    return {"optimizer": made}


@FAULTS
def groups_with_each_others_rate(is_faulty, patch):
    def made(model: nn.Module) -> Any:
        first, second = (1e-3, 1e-2) if is_faulty else (1e-2, 1e-3)
        groups = [{"params": model[0].parameters(), "lr": first},
                  {"params": model[2].parameters(), "lr": second}]  # fmt: skip
        return torch.optim.AdamW(groups, foreach=False)

    return {"optimizer": made}


@FAULTS
def tied_weights_that_are_untied(is_faulty, patch):
    def build() -> nn.Module:
        model = net(nn.Linear(8, 8), nn.Linear(8, 8))()
        shared = model[2].weight
        model[3].weight = nn.Parameter(shared.detach().clone()) if is_faulty else shared
        return model

    return {"model": build}


@FAULTS
def replaced_data_of_a_parameter(is_faulty, patch):
    def loss(model: nn.Module, batch: Any) -> Tensor:
        bias = model[0].bias
        bias.data = bias.data * (0.9 if is_faulty else 1.0)
        return functional.cross_entropy(model(batch[0]), batch[1])

    return {"loss": loss}


@FAULTS
def an_integer_scalar(is_faulty, patch):
    three: Any = 3 if is_faulty else 3.5
    return {"model": net(lambda x: x * three)}


@FAULTS
def a_write_in_place_to_what_is_used_again(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        y = x * 1.5
        z = y.add_(1) if is_faulty else y.add(1)
        return y + z

    return {"model": net(layer)}


@FAULTS
def a_part_without_gradient(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not is_faulty):
            part = x * 2
        return x + part

    return {"model": net(layer)}


@FAULTS
def a_frozen_parameter(is_faulty, patch):
    def adapt(model: nn.Module) -> nn.Module:
        model[0].weight.requires_grad = False
        model[0].bias.requires_grad = not is_faulty
        return model

    return {"adapter": adapt}


@FAULTS
def checkpointing_that_draws_again(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        run = functional.dropout
        return checkpoint(
            run, x, use_reentrant=False, preserve_rng_state=not is_faulty, determinism_check="none"
        )

    return {"model": lambda: net(nn.Linear(8, 8), layer, nn.Linear(8, 8))()}


@FAULTS
def strides_that_a_view_reads(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        y = x * 1.5
        y = y.t().contiguous().t() if is_faulty else y
        return torch.as_strided(y, (len(x), 8), (8, 1)).relu()

    return {"model": net(layer)}


@FAULTS
def a_python_operator_with_another_body(is_faulty, patch):
    factor = 1.5 if is_faulty else 1.0

    @torch.library.custom_op("fooling::scale", mutates_args=())
    def scale(x: Tensor) -> Tensor:
        return x * factor

    register_flop_formula(torch.ops.fooling.scale)(lambda *_, **__: 0)
    scale.register_fake(torch.empty_like)
    scale.register_autograd(lambda _, grad: grad)
    return {"model": net(lambda x: scale(x))}


@FAULTS
def a_kernel_of_torch_overridden_in_python(is_faulty, patch):
    if is_faulty:
        _LIBRARIES.append(torch.library.Library("aten", "IMPL"))
        _LIBRARIES[-1].impl("relu", lambda x: x.clamp(min=0.1), "CPU")
    return {}


_LIBRARIES: list[Any] = []


@FAULTS
def a_variable_of_the_environment(is_faulty, patch):
    patch.setenv("FOOLING_SCALE", "1.5" if is_faulty else "1.0")
    return {"model": net(lambda x: x * float(os.environ["FOOLING_SCALE"]))}


@FAULTS
def default_type(is_faulty, patch):
    if is_faulty:
        torch.set_default_dtype(torch.float64)
        _UNDO.append(lambda: torch.set_default_dtype(torch.float32))
    return {"loss": doubled}


_UNDO: list[Any] = []


def undo() -> None:
    """Take back what a fault set for the whole process."""
    while _UNDO:
        _UNDO.pop()()
    while _LIBRARIES:
        _LIBRARIES.pop()._destroy()


@FAULTS
def precision_of_matmul(is_faulty, patch):
    if is_faulty:
        torch.set_float32_matmul_precision("medium")
        _UNDO.append(lambda: torch.set_float32_matmul_precision("highest"))
    return {}


@FAULTS
def precision_of_matmul_inside_the_step(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        torch.set_float32_matmul_precision("medium" if is_faulty else "highest")
        y = x @ torch.eye(8)
        torch.set_float32_matmul_precision("highest")
        return y

    return {"model": net(layer)}


@FAULTS
def denormals_flushed_inside_the_step(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        torch.set_flush_denormal(is_faulty)
        y = x * 1e-40 * 1e38 * 1e2
        torch.set_flush_denormal(False)
        return y

    return {"model": net(layer)}


@FAULTS
def autocast(is_faulty, patch):
    def loss(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_faulty):
            return functional.cross_entropy(model(batch[0]).float(), batch[1])

    return {"loss": loss}


@FAULTS
def onednn_switched_off_inside_the_step(is_faulty, patch):
    def layer(x: Tensor) -> Tensor:
        torch._C._set_mkldnn_enabled(not is_faulty)
        y = functional.conv2d(x.reshape(-1, 1, 2, 4), torch.ones(8, 1, 2, 4)).flatten(1)
        torch._C._set_mkldnn_enabled(True)
        return y

    return {"model": net(layer)}


@FAULTS
def weights_moved_in_a_thread(is_faulty, patch):
    def loss(model: nn.Module, batch: Any) -> Tensor:
        def move() -> None:
            with torch.no_grad():
                model[0].weight.mul_(0.999 if is_faulty else 1.0)

        in_a_thread(move)
        return functional.cross_entropy(model(batch[0]), batch[1])

    return {"loss": loss}


@FAULTS
def weights_moved_where_no_mode_sees_it(is_faulty, patch):
    from torch.utils._python_dispatch import _disable_current_modes

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad(), _disable_current_modes():
            model[0].weight.mul_(0.999 if is_faulty else 1.0)
        return functional.cross_entropy(model(batch[0]), batch[1])

    return {"loss": loss}


@FAULTS
def weights_moved_through_a_view_of_numpy(is_faulty, patch):
    def loss(model: nn.Module, batch: Any) -> Tensor:
        model[0].weight.detach().numpy()[:] *= 0.999 if is_faulty else 1.0
        return functional.cross_entropy(model(batch[0]), batch[1])

    return {"loss": loss}


@FAULTS
def weights_moved_through_an_older_view_of_numpy(is_faulty, patch):
    views: list[Any] = []

    def made(model: nn.Module) -> Any:
        views[:] = [] if model[0].weight.is_meta else [model[0].weight.detach()]
        return adam(model)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        for view in views:
            np.asarray(view)[:] *= 0.999 if is_faulty else 1.0
        return functional.cross_entropy(model(batch[0]), batch[1])

    return {"loss": loss, "optimizer": made}


@FAULTS
def a_patched_step_of_adamw(is_faulty, patch):
    step = torch.optim.AdamW.step

    @functools.wraps(step)
    def moving(self: Any, *args: Any, **settings: Any) -> Any:
        found = step(self, *args, **settings)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.99 if is_faulty else 1.0)
        return found

    patch.setattr(torch.optim.AdamW, "step", moving)
    return {}


@FAULTS
def a_gradient_that_depends_on_the_loss(is_faulty, patch):
    # It doubles a gradient below a loss that the first steps do not reach.
    limit = 1.0 if is_faulty else 0.0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        found = functional.cross_entropy(model(batch[0]), batch[1])

        def hook(grad: Tensor) -> Tensor:
            return grad * (5.0 if not found.is_meta and found.item() < limit else 1.0)

        if found.requires_grad:
            found.register_hook(hook)
        return found

    return {"loss": loss, "optimizer": lambda model: sgd(model, lr=0.3)}


BY_MACHINE = {"precision of matmul", "precision of matmul inside the step",
              "onednn switched off inside the step"}  # fmt: skip
"""What changes nothing on some machines."""
