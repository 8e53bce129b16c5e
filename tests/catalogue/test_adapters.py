"""The methods of peft: what they refuse, how they start, step, prune, and what peft gets wrong."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import peft
import peft.optimizers
import peft.tuners.boft.layer as boft_layer
import pytest
import torch
from tiny_methods import adapted, each, loaded, method_named, trained
from tiny_network import tiny_data, tiny_network
from torch import nn

from peft_regress.catalogue.built_in import STEPS
from peft_regress.catalogue.methods import ADAPTERS, DORA, LORA
from peft_regress.catalogue.methods.adapter_shapes import BLOCK_SIZE
from peft_regress.catalogue.methods.learning_rates import learning_rate
from peft_regress.cost import profile_step
from peft_regress.errors import UnsupportedCaseError
from peft_regress.measure.objective import cross_entropy

if TYPE_CHECKING:
    from pathlib import Path

FLOAT32 = tuple(method for method in ADAPTERS if method.base_dtype == "float32")
ADALORA, LORA_FA, LORA_PLUS = (method_named(name) for name in ("adalora", "lorafa", "loraplus"))
HRA, OFT, BOFT = (method_named(name) for name in ("hra", "oft", "boft"))
RANKED = tuple(method for method in FLOAT32 if method.ranks)
PRINCIPAL = (method_named("pissa"), method_named("olora"))
STEM = "base_model.model."

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:The symmetric initialization can NOT:UserWarning"),
]


class _One(nn.Module):
    """A layer to adapt and a head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(2, 2)


class _Layers(nn.Module):
    def __init__(self, *, linear: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=3)
        self.pointwise = nn.Conv2d(8, 8, kernel_size=1)
        self.depthwise = nn.Conv2d(8, 8, kernel_size=3, groups=8)
        if linear:
            self.linear = nn.Linear(8, 12)
        self.head = nn.Linear(8, 4)


# Refusals


@each(*(method for method in FLOAT32 if method.name != "ln_tuning" and not method.targets.grouped))
def test_no_eligible_layer_is_an_unsupported_case(method: Any) -> None:
    model = _One(nn.Conv2d(3, 3, kernel_size=3, groups=3))
    message = f"{method.name}: _One has none of its targets, {method.targets.description} "
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        method.adapt(model, heads=("head",), rank=2, seed=0)


def test_norm_tuning_without_a_normalization_layer_is_an_unsupported_case() -> None:
    with pytest.raises(UnsupportedCaseError, match="none of its targets, normalization layers"):
        method_named("ln_tuning").adapt(_Layers(linear=True), heads=("head",), rank=None, seed=0)


# peft allows AdaLoRA a rank of 0; the command line does not.
@each(*(method for method in RANKED if method is not ADALORA))
def test_the_librarys_own_value_error_goes_through(method: Any) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        method.adapt(tiny_network(), heads=("head",), rank=0, seed=0)


@each(*FLOAT32)
def test_a_release_without_the_configuration_is_an_unsupported_case(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(peft, method.config)
    message = f"{method.name}: peft {peft.__version__} has no {method.config}"
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        adapted(method)


@each(LORA_FA, LORA_PLUS)
def test_a_release_without_the_optimizer_is_an_unsupported_case(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(peft.optimizers, f"create_{method.name}_optimizer")
    message = f"peft {peft.__version__} has no create_{method.name}_optimizer in peft.optimizers"
    with pytest.raises(UnsupportedCaseError, match=re.escape(message)):
        method.make_optimizer(adapted(method), rank=2)


@each(*PRINCIPAL)
def test_a_factored_start_refuses_convolutions(method: Any) -> None:
    """And says so as of an unknown one: LoRA's layer for convolutions knows but two starts."""
    with pytest.raises(ValueError, match=f"Unknown initialization .*'{method.name}'"):
        method.adapt(_Layers(linear=False), heads=("head",), rank=2, seed=0)


# LoRA and its kin


@each(LORA, DORA, LORA_PLUS)
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scaling_is_one_at_every_rank(method: Any, rank: int) -> None:
    model = adapted(method, rank=rank)
    scalings = [m.scaling["default"] for m in model.modules() if hasattr(m, "scaling")]
    assert scalings == [1.0, 1.0]


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_rank_stabilized_scaling_is_the_root_of_the_rank(rank: int) -> None:
    model = adapted(method_named("rslora"), rank=rank)
    scalings = [m.scaling["default"] for m in model.modules() if hasattr(m, "scaling")]
    assert scalings == [math.sqrt(rank)] * 2


def test_dora_magnitude_starts_at_the_norm_of_each_output_channel() -> None:
    base = tiny_network()
    norms = base.conv.weight.detach().flatten(start_dim=1).norm(dim=1)
    parameters = dict(DORA.adapt(base, heads=("head",), rank=2, seed=0).named_parameters())
    magnitude = parameters[f"{STEM}conv.lora_magnitude_vector.default.weight"]
    torch.testing.assert_close(magnitude.detach().flatten(), norms)


def test_dora_takes_the_norm_of_another_weight_than_a_grouped_layer_has() -> None:
    """It reads B of (out, rank / groups) as (out / groups, rank).

    A release that mends it makes this test fail: take the note out of docs/methods.md then.
    """
    method, groups, rank = method_named("dora-grouped"), 2, 4
    base = nn.Conv2d(4, 6, kernel_size=1, groups=groups, bias=False)
    model = method.adapt(_One(base), heads=("head",), rank=rank, seed=0)
    layer: Any = model.get_submodule(f"{STEM}layer")
    a, b = (layer.get_submodule(f"{name}.default") for name in ("lora_A", "lora_B"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        b.weight.copy_(torch.randn(b.weight.shape, generator=generator))
        # What the layer computes is linear in the image, so that the unit images give its weight.
        units = torch.eye(4).view(4, 4, 1, 1)
        weight = (base(units) + b(a(units))).flatten(1).T  # (out, in)
        magnitude = layer.lora_magnitude_vector["default"].weight.flatten()
        right = magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
        given = layer(units).flatten(1).T
    scale = given / right  # of each output one number, which should be 1
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), rtol=1e-3, atol=0)
    assert (scale - 1).abs().max() > 0.1, "mended in peft"


def test_loraplus_trains_b_at_the_ratio_times_the_rate_of_a() -> None:
    model = adapted(LORA_PLUS)
    rate_of = {
        id(parameter): group["lr"]
        for group in LORA_PLUS.make_optimizer(model, rank=2).param_groups
        for parameter in group["params"]
    }
    rates = {
        name.removeprefix(STEM): rate_of[id(parameter)]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    low, high = learning_rate("loraplus"), 4 * learning_rate("loraplus")
    assert rates == {
        "conv.lora_A.default.weight": low,
        "conv.lora_B.default.weight": high,
        "linear.lora_A.default.weight": low,
        "linear.lora_B.default.weight": high,
        "head.weight": low,
        # Whatever has one dimension goes with B, in the reference code too.
        "head.bias": high,
    }


@each(*PRINCIPAL)
def test_a_factored_start_splits_the_weight_and_keeps_the_sum(method: Any) -> None:
    base = tiny_network()
    whole = base.linear.weight.detach().clone()
    layer: Any = method.adapt(base, heads=("head",), rank=3, seed=0).get_submodule(f"{STEM}linear")
    low_rank = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    torch.testing.assert_close(layer.base_layer.weight + low_rank, whole)
    assert torch.linalg.matrix_rank(low_rank) == 3


def test_pissa_takes_the_largest_singular_values() -> None:
    base = tiny_network()
    values = torch.linalg.svdvals(base.linear.weight.detach())
    model = method_named("pissa").adapt(base, heads=("head",), rank=3, seed=0)
    rest = torch.linalg.svdvals(model.get_submodule(f"{STEM}linear").base_layer.weight.detach())
    torch.testing.assert_close(rest[:-3], values[3:])


# LoRA-FA


def test_lorafa_keeps_a_at_its_draw_and_ships_it() -> None:
    name = f"{STEM}linear.lora_A.default.weight"
    before, model = adapted(LORA_FA).get_parameter(name), trained(LORA_FA)
    assert torch.equal(model.get_parameter(name), before)
    assert name.replace(".default", "") in LORA_FA.shipped_tensors(model)


def test_lorafa_steps_along_the_gradient_times_the_inverse_of_a_a_transposed() -> None:
    """And multiplies in bfloat16 whatever the base is: that is peft's, in `LoraFAOptimizer.step`.

    A release that multiplies in float32 makes this test fail: its losses from the third on differ.
    """
    model = adapted(LORA_FA)
    optimizer = LORA_FA.make_optimizer(model, rank=2)
    a, b = (model.get_parameter(f"{STEM}linear.lora_{side}.default.weight") for side in "AB")
    data = tiny_data()
    cross_entropy(model(data.train_images), data.train_labels).backward()
    inverse = torch.linalg.pinv((a @ a.T).detach() + 1e-8 * torch.eye(2))
    in_bfloat16 = (b.grad.bfloat16() @ inverse.bfloat16()).float()
    exact = b.grad @ inverse
    optimizer.step()
    state = next(s for name, s in optimizer.state.items() if "linear.lora" in str(name))
    moment = state["exp_avg_B"] / 0.1
    torch.testing.assert_close(moment, in_bfloat16, rtol=1e-6, atol=0)
    torch.testing.assert_close(moment, exact, rtol=2e-2, atol=1e-2 * exact.abs().max().item())
    assert not torch.allclose(moment, exact, rtol=1e-4, atol=0)


@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors:UserWarning")
def test_lorafa_cannot_step_on_a_convolution() -> None:
    """`A @ A.T` of a weight with four dimensions; wrapping and the backward pass take it."""

    class Convolutions(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(8, 4)

    model = LORA_FA.adapt(Convolutions(), heads=("head",), rank=2, seed=0)
    optimizer = LORA_FA.make_optimizer(model, rank=2)
    data = tiny_data()
    cross_entropy(model(data.train_images), data.train_labels).backward()
    with pytest.raises(RuntimeError, match="must match the size"):
        optimizer.step()


# AdaLoRA


def test_adalora_is_scheduled_over_the_steps_of_a_run() -> None:
    declared = ADALORA.hyperparameters(4)
    assert declared["total_step"] == STEPS
    assert (declared["init_r"], declared["target_r"]) == (6, 4)


def _ranks(model: nn.Module) -> list[int]:
    return [int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name]


def _after(steps: int) -> list[int]:
    return _ranks(trained(ADALORA, steps=steps))


def test_adalora_prunes_down_to_its_budget_after_the_first_losses() -> None:
    """Ranks 3 and 3 at first; the budget of 2 and 2 is shared by what the gradients weigh."""
    assert _after(5) == [3, 3]
    budgets = [sum(_after(steps)) for steps in (6, 8, 10, 12, 14, STEPS)]
    assert budgets[0] < 6
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-2:] == [4, 4]


def test_a_pruned_adapter_ships_the_ranks_that_are_left_and_reloads(tmp_path: Path) -> None:
    model = trained(ADALORA)
    left = _ranks(model)
    assert left != [3, 3]
    shipped = ADALORA.shipped_tensors(model)
    assert [len(t) for name, t in shipped.items() if name.endswith(".lora_E")] == left
    ADALORA.save(model, tmp_path)
    fresh = loaded(ADALORA, tmp_path)
    assert _ranks(fresh) == left
    images = tiny_data().test_images
    assert torch.equal(fresh(images), model(images))


def test_an_unpruned_adapter_reloads_too(tmp_path: Path) -> None:
    model = trained(ADALORA, steps=3)
    images = tiny_data().test_images
    ADALORA.save(model, tmp_path)
    assert torch.equal(loaded(ADALORA, tmp_path)(images), model(images))


# HRA, OFT and BOFT


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_hra_starts_as_the_identity_at_even_ranks_alone(rank: int) -> None:
    """Two reflections in the same vector undo each other; peft says so for odd ranks."""
    images = tiny_data().test_images
    before = tiny_network()(images)
    after = adapted(HRA, rank=rank).eval()(images)
    assert torch.allclose(before, after, atol=1e-5) == (rank % 2 == 0)


def _rotation(kernel: int) -> Any:
    layer = nn.Conv2d(4, 4, kernel_size=kernel, padding=kernel // 2)
    return OFT.adapt(_One(layer), heads=("head",), rank=None, seed=0).get_submodule(f"{STEM}layer")


def test_oft_on_a_pointwise_convolution_starts_as_the_identity() -> None:
    layer = _rotation(1)
    images = torch.rand(2, 4, 6, 6)
    assert torch.equal(layer(images), layer.base_layer(images))


def test_oft_on_a_larger_kernel_computes_another_function_from_the_start() -> None:
    """Its `_fold` is not the inverse of its `_unfold`, for two reasons that are shown here.

    A release that mends it makes this test fail: take the note out of docs/methods.md then.
    """
    layer = _rotation(3)
    images = torch.rand(2, 4, 6, 6)
    given, wanted = layer(images), layer.base_layer(images)
    assert not torch.allclose(given, wanted, rtol=0.1), "mended in peft"
    rotation = layer.oft_R["default"]
    patches = rotation._unfold(images)  # (batch * 16 places, 4 channels * 9), places first
    count = nn.functional.fold(torch.ones(1, 9, 16), (6, 6), 3)
    # It hands (channels, places, kernel) to `fold` where (channels, kernel, places) is wanted ...
    right_order = patches.view(2, 16, 36).transpose(1, 2)
    folded = nn.functional.fold(right_order, (6, 6), 3)
    assert not torch.allclose(rotation._fold(patches, images.shape), folded)
    # ... and leaves the sum over the patches that a pixel is in, up to nine of them.
    torch.testing.assert_close(folded, images * count)
    assert count.max() == 9


def test_oft_merges_into_another_function_than_it_computes() -> None:
    """Merging rotates the weight, as the paper has it, and at the start leaves it as it is."""
    layer = _rotation(3)
    images = torch.rand(2, 4, 6, 6)
    computed, base = layer(images), layer.base_layer(images)
    layer.merge()
    torch.testing.assert_close(layer.base_layer(images), base)
    assert not torch.allclose(computed, base, rtol=0.1)


def test_oft_needs_a_map_as_large_as_the_kernel_without_padding() -> None:
    with pytest.raises(RuntimeError, match="maximum size for tensor"):
        _rotation(3)(torch.rand(2, 4, 2, 2))


def test_boft_never_tries_to_compile_and_leaves_peft_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiling(**_options: Any) -> None:
        pytest.fail("BOFT compiles an extension")

    monkeypatch.setattr("torch.utils.cpp_extension.load", compiling)
    before = boft_layer._FBD_CUDA
    layers = [m for m in adapted(BOFT).modules() if hasattr(m, "fbd_cuda_available")]
    assert [layer.fbd_cuda_available for layer in layers] == [False]
    assert boft_layer._FBD_CUDA is before


def test_boft_keeps_a_square_of_all_inputs_for_each_layer() -> None:
    """The permutation between the blocks, an identity with one factor, and in float32 always."""
    model = BOFT.adapt(_One(nn.Conv2d(12, 8, 3)), heads=("head",), rank=None, seed=0)
    permutation = dict(model.named_buffers())[f"{STEM}layer.boft_P"]
    assert torch.equal(permutation, torch.eye(108)[None])


def _forward_flops(method: Any, rank: int | None) -> int:
    """Profile a convolution of 8 outputs and 12 x 3 x 3 inputs, adapted, at 4 x 4 places."""

    class Convolution(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(12, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(8, 4)

    model = method.adapt(Convolution(), heads=("head",), rank=rank, seed=0)
    step = profile_step(
        model,
        lambda wrapped: method.make_optimizer(wrapped, rank=rank),
        input_shape=(1, 12, 6, 6),
        num_classes=4,
    )
    return step.forward_flops


def test_hra_and_boft_multiply_square_matrices_of_all_inputs() -> None:
    """Why they are kept to narrow layers: in peft both multiply whole identities, 2 n^3 a product.

    For n inputs, HRA once, and each reflection as a full matrix; BOFT by its permutation twice and
    by what it starts from.
    """
    inputs, out, places, rank = 12 * 9, 8, 16, 2
    convolution, head = 2 * out * inputs * places, 2 * 8 * 4
    square, on_weight = 2 * inputs**3, 2 * out * inputs**2
    assert _forward_flops(LORA, rank) == (
        convolution + head + 2 * rank * inputs * places + 2 * out * rank * places
    )
    reflections = rank * 4 * inputs**2
    assert _forward_flops(HRA, rank) == convolution + head + reflections + square + on_weight
    # 27 blocks of 4 x 4, each solved: 34 FLOPs for its factors and 28 for each of 4 columns.
    cayley = 27 * (34 + 4 * 28)
    assert _forward_flops(BOFT, None) == convolution + head + 3 * square + on_weight + cayley


@each(OFT, BOFT)
def test_blocks_have_the_size_that_the_definition_says(method: Any) -> None:
    declared = method.hyperparameters(None)
    assert declared[f"{method.name}_block_size"] == BLOCK_SIZE
    model = adapted(method)
    sizes = {m.__dict__[f"{method.name}_block_size"]["default"] for m in _layers_of(model, method)}
    assert sizes == {BLOCK_SIZE}


def _layers_of(model: nn.Module, method: Any) -> list[Any]:
    return [m for m in model.modules() if f"{method.name}_block_size" in m.__dict__]
