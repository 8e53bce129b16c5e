"""GaLore: a convolution as a matrix, refreshes, and the variant that keeps only what it uses."""

from importlib import import_module

import pytest
import torch
from tiny_architecture import TinyArchitecture
from tiny_methods import adapted, each, trained
from torch import nn

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.built_in import STEPS
from peft_regress.catalogue.methods.galore import GALORE, GALORE_BF16, GALORE_CLONED
from peft_regress.errors import UnsupportedCaseError
from peft_regress.measure.costs import CostSettings, adaptation_cost

BOTH = (GALORE, GALORE_CLONED)


def _holding(parameter):
    holder = nn.Module()
    holder.weight = parameter
    return holder


def _step(parameter, gradient, *, rank):
    optimizer = GALORE.at(rank).make_optimizer(_holding(parameter))
    before = parameter.detach().clone()
    parameter.grad = gradient.clone()
    optimizer.step()
    return parameter.detach() - before


@each(*BOTH)
def test_on_a_matrix_it_is_the_stock_optimizer_to_the_bit(method):
    """Which renews the projection every gap and not between."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(12, 20, generator=generator)
    ours, stock = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours_optimizer = method.at(3).make_optimizer(_holding(ours))
    settings = ("update_proj_gap", "scale", "proj_type")
    group = {"params": [stock], "rank": 3, **{name: getattr(method, name) for name in settings}}
    stock_optimizer = import_module("galore_torch").GaLoreAdamW(
        [group], lr=GALORE.learning_rate, no_deprecation_warning=True
    )
    assert method.update_proj_gap < STEPS
    for _ in range(2 * method.update_proj_gap + 1):
        gradient = torch.randn(12, 20, generator=generator)
        ours.grad, stock.grad = gradient.clone(), gradient.clone()
        ours_optimizer.step()
        stock_optimizer.step()
    assert not torch.equal(ours, start)
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (40, 2, 3, 3)], ids=["wide", "tall"])
def test_a_convolution_is_seen_as_a_matrix(shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    gradient = torch.randn(shape, generator=generator)
    moved = _step(nn.Parameter(weight.clone()), gradient, rank=2)
    flat = _step(nn.Parameter(weight.flatten(start_dim=1)), gradient.flatten(start_dim=1), rank=2)
    assert moved.shape == weight.shape
    assert torch.equal(moved.flatten(start_dim=1), flat)
    assert torch.linalg.matrix_rank(flat, rtol=1e-4) == 2


@each(*BOTH)
def test_weights_are_ranked_and_vectors_left_plain(method):
    ranked, plain = method.at(2).make_optimizer(adapted(method)).param_groups
    assert ranked["rank"] == 2
    assert "rank" not in plain
    assert {p.ndim for p in ranked["params"]} == {2, 4}
    assert {p.ndim for p in plain["params"]} == {1}


@each(*BOTH)
def test_a_weight_to_project_is_needed(method):
    with pytest.raises(UnsupportedCaseError, match="no trainable weight"):
        method.at(2).make_optimizer(nn.BatchNorm2d(3))


def test_cloning_changes_no_bit_of_a_model():
    stock, cloned = (trained(method, steps=20) for method in BOTH)
    for one, other in zip(stock.parameters(), cloned.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_state_is_two_moments_and_of_the_svd_all_vectors_or_those_that_are_used(clean_registry):
    """Per weight (m, n) of rank r: the stock one keeps min(m, n)^2 elements, the clone r min(m, n).

    The library takes the r vectors as a slice, which keeps the whole matrix alive.
    """
    registry.add("architecture", TinyArchitecture())
    model = TinyArchitecture().build(num_classes=10, seed=0)
    rank, of_moments, of_all, of_used = 4, 0, 0, 0
    for parameter in model.parameters():
        if parameter.ndim == 1:
            of_moments += 2 * parameter.numel()
            continue
        out, inner = len(parameter), parameter[0].numel()
        smaller, larger = min(out, inner), max(out, inner)
        of_moments += 2 * larger * min(rank, smaller)
        of_all += smaller * smaller
        of_used += smaller * min(rank, smaller)
    stock, cloned = (
        adaptation_cost(
            Adaptation(method=method.name, architecture="tiny", rank=rank), CostSettings()
        ).step
        for method in BOTH
    )
    assert stock.optimizer_state_bytes == 4 * (of_moments + of_all)
    assert cloned.optimizer_state_bytes == 4 * (of_moments + of_used)
    assert stock.optimizer_flops == cloned.optimizer_flops
    assert stock.projection_flops == cloned.projection_flops
    assert cloned.peak_bytes < stock.peak_bytes


def test_on_bfloat16_the_svd_is_taken_in_float32_and_its_slice_is_a_copy(monkeypatch):
    """So that there the stock projector keeps what the cloning one keeps."""
    taken = []
    svd = torch.linalg.svd

    def seen(matrix, **options):
        taken.append(matrix.dtype)
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", seen)
    parameter = nn.Parameter(torch.zeros(8, 2, 3, 3, dtype=torch.bfloat16))
    optimizer = GALORE_BF16.at(3).make_optimizer(_holding(parameter))
    parameter.grad = torch.randn(8, 2, 3, 3, dtype=torch.bfloat16)
    optimizer.step()
    state = optimizer.state[parameter]
    assert taken == [torch.float32]
    assert {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {torch.bfloat16}
    side = state["projector"].ortho_matrix
    assert side.dtype == torch.bfloat16
    assert side.untyped_storage().nbytes() == 2 * side.numel()
