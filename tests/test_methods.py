"""Methods: what they wrap, what they train, what they ship, and how GaLore sees a convolution."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from tiny_network import tiny_data, tiny_network
from torch import nn
from torch.nn import functional

from peft_regress import registry
from peft_regress.architectures import MOBILENET_V3_SMALL, RESNET18, SHUFFLENET_V2_X0_5
from peft_regress.errors import InputError, UnsupportedCaseError
from peft_regress.methods import BN_HEAD, DORA, FULL, GALORE, HEAD, LORA, Method
from peft_regress.methods.learning_rates import LEARNING_RATES
from peft_regress.methods.quiet_import import import_quietly

ALL: tuple[tuple[Method, int | None], ...] = (
    (FULL, None),
    (HEAD, None),
    (BN_HEAD, None),
    (LORA, 2),
    (DORA, 2),
    (GALORE, 2),
)
each_method = pytest.mark.parametrize(
    ("method", "rank"), ALL, ids=[method.name for method, _ in ALL]
)
each_adapter = pytest.mark.parametrize("method", [LORA, DORA], ids=["lora", "dora"])


def _trainable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _adapt(method: Method, rank: int | None, *, seed: int = 0) -> nn.Module:
    return method.adapt(tiny_network(), head="head", rank=rank, seed=seed)


def _train(method: Method, rank: int | None, *, steps: int = 3) -> nn.Module:
    model = _adapt(method, rank)
    optimizer = method.make_optimizer(model, rank=rank)
    data = tiny_data()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(data.train_images), data.train_labels).backward()
        optimizer.step()
    return model


# What trains


@each_method
@pytest.mark.parametrize(
    "architecture", [MOBILENET_V3_SMALL, SHUFFLENET_V2_X0_5], ids=["v3", "shufflenet"]
)
def test_what_trains_is_what_the_rule_says(
    method: Method, rank: int | None, architecture: Any
) -> None:
    base = architecture.build(num_classes=10, seed=0)
    expected = method.expected_trainable(base, head=architecture.head, rank=rank)
    adapted = method.adapt(base, head=architecture.head, rank=rank, seed=0)
    assert _trainable(adapted) == expected


@each_adapter
def test_adapters_sit_on_ungrouped_layers_only_and_the_head_trains_in_full(method: Any) -> None:
    trainable = _trainable(_adapt(method, 2))
    stem = "base_model.model."
    magnitudes = {
        f"{stem}conv.lora_magnitude_vector.default.weight": (1, 8, 1, 1),
        f"{stem}linear.lora_magnitude_vector.default.weight": (12,),
    }
    assert trainable == {
        f"{stem}conv.lora_A.default.weight": (2, 3, 3, 3),
        f"{stem}conv.lora_B.default.weight": (8, 2, 1, 1),
        f"{stem}linear.lora_A.default.weight": (2, 8),
        f"{stem}linear.lora_B.default.weight": (12, 2),
        f"{stem}head.weight": (4, 12),
        f"{stem}head.bias": (4,),
        **(magnitudes if method.use_dora else {}),
    }


def test_lora_count_on_resnet18_equals_the_published_one_with_head_for_adapter() -> None:
    model = LORA.adapt(RESNET18.build(num_classes=10, seed=0), head="fc", rank=4, seed=0)
    on_every_layer, on_head, head = 145_780, 4 * (512 + 10), 512 * 10 + 10
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == on_every_layer - on_head + head


@each_adapter
def test_head_is_not_copied(method: Any) -> None:
    base = sum(parameter.numel() for parameter in tiny_network().parameters())
    adapted = _adapt(method, 2)
    adapters = sum(p.numel() for n, p in adapted.named_parameters() if ".lora_" in n)
    assert sum(parameter.numel() for parameter in adapted.parameters()) == base + adapters


def test_a_layer_whose_name_ends_like_a_target_is_left_alone() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.block = nn.ModuleDict({"conv": nn.Conv2d(8, 8, 3, groups=8)})
            self.head = nn.Linear(8, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.block["conv"](self.conv(images)).mean(dim=(2, 3)))

    adapted = LORA.adapt(Nested(), head="head", rank=2, seed=0)
    assert not [name for name in _trainable(adapted) if "block" in name]


@pytest.mark.parametrize("method", [HEAD, BN_HEAD], ids=lambda item: item.name)
def test_head_methods_train_the_head_alone(method: Any) -> None:
    assert _trainable(_adapt(method, None)) == {"head.weight": (4, 12), "head.bias": (4,)}


def test_bn_head_alone_asks_for_batch_norm_in_train_mode() -> None:
    assert [m.name for m, _ in ALL if m.trains_batch_norm_statistics] == ["bn_head"]


# Refusals


@each_adapter
def test_no_eligible_layer_is_an_unsupported_case(method: Any) -> None:
    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(3, 3, 3, groups=3)
            self.head = nn.Linear(3, 4)

    with pytest.raises(UnsupportedCaseError, match="Depthwise has no Conv2d with groups == 1"):
        method.adapt(Depthwise(), head="head", rank=2, seed=0)


@each_adapter
def test_the_librarys_own_value_error_goes_through(method: Any) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        _adapt(method, 0)


@each_method
def test_an_unknown_head_is_an_unsupported_case(method: Method, rank: int | None) -> None:
    with pytest.raises(UnsupportedCaseError, match="no module 'top'"):
        method.adapt(tiny_network(), head="top", rank=rank, seed=0)


# Seeds


@each_adapter
def test_seed_alone_fixes_the_adapter(method: Any) -> None:
    torch.manual_seed(1)
    first = dict(_adapt(method, 2, seed=7).named_parameters())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = dict(_adapt(method, 2, seed=7).named_parameters())
    other = dict(_adapt(method, 2, seed=8).named_parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = "base_model.model.conv.lora_A.default.weight"
    assert not torch.equal(first[drawn], other[drawn])


# Function


@each_adapter
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scaling_is_one_at_every_rank(method: Any, rank: int) -> None:
    adapted = _adapt(method, rank)
    scalings = [m.scaling["default"] for m in adapted.modules() if hasattr(m, "scaling")]
    assert scalings == [1.0, 1.0]


def test_dora_magnitude_starts_at_the_norm_of_each_output_channel() -> None:
    base = tiny_network()
    norms = base.conv.weight.detach().flatten(start_dim=1).norm(dim=1)
    parameters = dict(DORA.adapt(base, head="head", rank=2, seed=0).named_parameters())
    magnitude = parameters["base_model.model.conv.lora_magnitude_vector.default.weight"]
    torch.testing.assert_close(magnitude.detach().flatten(), norms)


@each_adapter
def test_merging_gives_a_plain_model_and_leaves_the_adapted_one(method: Any) -> None:
    adapted = _train(method, 2).eval()
    images = tiny_data().test_images
    before = adapted(images)
    merged = method.merge(adapted)
    assert {name for name, _ in merged.named_parameters()} == {
        name for name, _ in tiny_network().named_parameters()
    }
    torch.testing.assert_close(merged(images), before, rtol=1e-4, atol=1e-5)
    assert torch.equal(adapted(images), before)


@pytest.mark.parametrize("method", [FULL, HEAD, BN_HEAD, GALORE], ids=lambda item: item.name)
def test_methods_without_an_adapter_have_nothing_to_merge(method: Any) -> None:
    assert method.merge(tiny_network()) is None


# Optimizers


@each_method
def test_optimizer_holds_exactly_what_trains(method: Method, rank: int | None) -> None:
    model = _adapt(method, rank)
    optimizer = method.make_optimizer(model, rank=rank)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    wanted = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(held) == sorted(wanted)


@each_method
def test_optimizer_is_set_as_the_definition_says(method: Method, rank: int | None) -> None:
    declared = method.hyperparameters(rank)
    assert declared["learning_rate"] == LEARNING_RATES[method.name]
    optimizer = method.make_optimizer(_adapt(method, rank), rank=rank)
    assert type(optimizer).__name__ == str(declared["optimizer"]).removeprefix("GaLore")
    for group in optimizer.param_groups:
        assert group["lr"] == declared["learning_rate"]
        assert list(group["betas"]) == declared["betas"]
        assert group["eps"] == declared["eps"]
        assert group["weight_decay"] == declared["weight_decay"] == 0.0
        assert group.get("foreach", False) is False


# Shipping


@each_method
def test_shipped_tensors_carry_the_trained_function_to_another_seed(
    method: Method, rank: int | None
) -> None:
    trained = _train(method, rank).eval()
    fresh = _adapt(method, rank, seed=99).eval()
    images = tiny_data().test_images
    assert not torch.equal(fresh(images), trained(images))
    shipped = {name: t.clone() for name, t in method.shipped_tensors(trained).items()}
    method.load_shipped(fresh, shipped)
    assert torch.equal(fresh(images), trained(images))


@each_method
def test_loading_refuses_tensors_of_another_model(method: Method, rank: int | None) -> None:
    model = _adapt(method, rank)
    shipped = dict(method.shipped_tensors(model))
    name, tensor = shipped.popitem()
    with pytest.raises(InputError, match="1 absent"):
        method.load_shipped(model, shipped)
    with pytest.raises(InputError, match="1 unknown"):
        method.load_shipped(model, {**shipped, name: tensor, "stranger": tensor})


@pytest.mark.parametrize(("method", "rank"), [(FULL, None), (GALORE, 2)], ids=["full", "galore"])
def test_methods_that_train_everything_ship_buffers_too(method: Any, rank: int | None) -> None:
    assert method.shipped_tensors(_adapt(method, rank)).keys() == tiny_network().state_dict().keys()


def test_head_ships_the_head_and_bn_head_the_statistics_with_it() -> None:
    head = {"head.weight", "head.bias"}
    assert HEAD.shipped_tensors(_adapt(HEAD, None)).keys() == head
    statistics = {"norm.running_mean", "norm.running_var"}
    assert BN_HEAD.shipped_tensors(_adapt(BN_HEAD, None)).keys() == head | statistics


def test_lora_ships_adapter_and_head_and_nothing_of_the_base() -> None:
    shipped = LORA.shipped_tensors(_adapt(LORA, 2))
    sizes = {name: tensor.numel() for name, tensor in shipped.items()}
    assert sum(sizes.values()) == 2 * (3 * 9 + 8) + 2 * (8 + 12) + 12 * 4 + 4
    assert len(sizes) == 6


# GaLore


def _galore_step(parameter: nn.Parameter, gradient: torch.Tensor, *, rank: int) -> torch.Tensor:
    holder = nn.Module()
    holder.weight = parameter
    optimizer = GALORE.make_optimizer(holder, rank=rank)
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    return parameter.detach() - before


def test_galore_on_a_matrix_is_the_stock_optimizer_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(12, 20, generator=generator)
    ours, stock = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    holder = nn.Module()
    holder.weight = ours
    ours_optimizer = GALORE.make_optimizer(holder, rank=3)
    stock_optimizer = import_quietly("galore_torch").GaLoreAdamW(
        [
            {
                "params": [stock],
                "rank": 3,
                "update_proj_gap": GALORE.update_proj_gap,
                "scale": GALORE.scale,
                "proj_type": GALORE.proj_type,
            }
        ],
        lr=LEARNING_RATES["galore"],
        no_deprecation_warning=True,
    )
    for _ in range(2 * GALORE.update_proj_gap + 1):
        gradient = torch.randn(12, 20, generator=generator)
        ours.grad, stock.grad = gradient.clone(), gradient.clone()
        ours_optimizer.step()
        stock_optimizer.step()
    assert not torch.equal(ours, start)
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (40, 2, 3, 3)], ids=["wide", "tall"])
def test_galore_sees_a_convolution_as_a_matrix(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    gradient = torch.randn(shape, generator=generator)
    moved = _galore_step(nn.Parameter(weight.clone()), gradient, rank=2)
    flat = _galore_step(
        nn.Parameter(weight.flatten(start_dim=1)), gradient.flatten(start_dim=1), rank=2
    )
    assert moved.shape == weight.shape
    assert torch.equal(moved.flatten(start_dim=1), flat)
    assert torch.linalg.matrix_rank(flat, rtol=1e-4) == 2


def test_galore_ranks_weights_and_leaves_vectors_plain() -> None:
    model = _adapt(GALORE, 2)
    optimizer = GALORE.make_optimizer(model, rank=2)
    ranked, plain = optimizer.param_groups
    assert ranked["rank"] == 2
    assert "rank" not in plain
    assert {p.ndim for p in ranked["params"]} == {2, 4}
    assert {p.ndim for p in plain["params"]} == {1}


def test_galore_refreshes_its_projection_every_gap_and_not_between() -> None:
    parameter = nn.Parameter(torch.zeros(6, 9))
    holder = nn.Module()
    holder.weight = parameter
    optimizer = GALORE.make_optimizer(holder, rank=2)
    generator = torch.Generator().manual_seed(0)
    refreshed, last = [], None
    for step in range(2 * GALORE.update_proj_gap + 1):
        parameter.grad = torch.randn(6, 9, generator=generator)
        optimizer.step()
        now = optimizer.state[parameter]["projector"].ortho_matrix
        if last is None or not torch.equal(now, last):
            refreshed.append(step)
        last = now.clone()
    assert refreshed == [0, GALORE.update_proj_gap, 2 * GALORE.update_proj_gap]


def test_galore_needs_a_weight_to_project() -> None:
    with pytest.raises(UnsupportedCaseError, match="no trainable weight"):
        GALORE.make_optimizer(nn.BatchNorm2d(3), rank=2)


# Names and noise


def test_entry_points_name_the_six_methods() -> None:
    for method, rank in ALL:
        assert registry.get("method", method.name) is method
        assert "default" in method.matrices
        assert method.ranks == (() if rank is None else (1, 4, 16))
    assert set(LEARNING_RATES) == {method.name for method, _ in ALL}


def test_importing_the_libraries_prints_nothing() -> None:
    code = (
        "import torch\n"
        "from peft_regress.architectures import SHUFFLENET_V2_X0_5 as a\n"
        "from peft_regress.methods import DORA, GALORE\n"
        "DORA.adapt(a.build(num_classes=10, seed=0), head='fc', rank=4, seed=0)\n"
        "m = a.build(num_classes=10, seed=0)\n"
        "GALORE.make_optimizer(m, rank=4)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_of_the_noisy_logger_only_the_known_line_is_dropped(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def log_two(_name: str) -> None:
        logger.warning("Failed to load CPU gemm_4bit_forward from somewhere: %s", "no kernels")
        logger.warning("a real problem")

    monkeypatch.setattr("importlib.import_module", log_two)
    import_quietly("anything")
    logger.warning("Failed to load CPU gemm_4bit_forward when a model is wrapped")
    assert [record.getMessage() for record in caplog.records] == ["a real problem"]


def test_a_trained_model_can_be_copied_with_its_adapter() -> None:
    trained = _train(DORA, 2).eval()
    images = tiny_data().test_images
    assert torch.equal(copy.deepcopy(trained)(images), trained(images))
