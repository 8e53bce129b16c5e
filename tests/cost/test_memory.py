"""Memory: the log, hand-computed steps, and GaLore's state."""

from __future__ import annotations

import gc
import itertools
import warnings
from typing import TYPE_CHECKING

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from network_zoo import adamw, sgd
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from peft_regress.cost import StepCost, profile_step
from peft_regress.cost.memory import CATEGORIES, MemoryEvent, peak_of, summarize_memory
from peft_regress.cost.recorder import StepRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

torch.set_num_threads(1)

FLOAT = 4
LONG = 8


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), momentum=0.9, foreach=False)


# --- The log, without tensors ---------------------------------------------------------------------


def test_an_empty_log_holds_nothing() -> None:
    summary = summarize_memory([])
    assert summary.peak_bytes == 0
    assert summary.sites_at_peak == ()
    assert set(summary.high_bytes.values()) == {0}


def test_peak_is_simultaneous_while_highs_are_each_category_s_own() -> None:
    summary = summarize_memory(
        [
            MemoryEvent(10, "param", "a"),
            MemoryEvent(7, "activation", "a"),
            MemoryEvent(-7, "activation", "a"),
            MemoryEvent(5, "temp", "b"),
        ]
    )
    assert summary.peak_bytes == 17
    assert summary.high_bytes["activation"] == 7
    assert summary.high_bytes["temp"] == 5
    assert sum(summary.high_bytes.values()) == 22
    assert summary.sites_at_peak == (("activation", "a", "", 7), ("param", "a", "", 10))
    assert summary.end_bytes["activation"] == 0
    assert summary.end_bytes["temp"] == 5


def test_changing_category_does_not_count_a_tensor_twice() -> None:
    log = [MemoryEvent(8, "temp", "a"), MemoryEvent(-8, "temp", "a"), MemoryEvent(8, "grad", "a")]
    summary = summarize_memory(log)
    assert summary.peak_bytes == 8
    assert summary.high_bytes["temp"] == summary.high_bytes["grad"] == 8
    assert summary.end_bytes["grad"] == 8


def test_what_peaked_before_the_start_does_not_count_but_what_stayed_does() -> None:
    log = [
        MemoryEvent(100, "activation", "a"),
        MemoryEvent(-100, "activation", "a"),
        MemoryEvent(3, "optimizer", "a"),
        MemoryEvent(1, "activation", "b"),
    ]
    summary = summarize_memory(log, start=3)
    assert summary.peak_bytes == 4
    assert summary.high_bytes["activation"] == 1
    assert summary.high_bytes["optimizer"] == 3


def test_the_first_of_equal_peaks_is_the_one_described() -> None:
    log = [
        MemoryEvent(4, "temp", "first"),
        MemoryEvent(-4, "temp", "first"),
        MemoryEvent(4, "temp", "second"),
    ]
    assert summarize_memory(log).sites_at_peak == (("temp", "first", "", 4),)


def test_freeing_more_than_was_allocated_is_an_error() -> None:
    with pytest.raises(ValueError, match="more temp bytes were freed"):
        summarize_memory([MemoryEvent(-1, "temp", "")])


def test_a_start_outside_the_log_is_an_error() -> None:
    with pytest.raises(ValueError, match="start 2 lies outside a log of 1"):
        summarize_memory([MemoryEvent(1, "temp", "")], start=2)


@st.composite
def logs(draw: st.DrawFn) -> list[MemoryEvent]:
    """Draw allocations and frees of what is alive, in any order."""
    events: list[MemoryEvent] = []
    alive: list[MemoryEvent] = []
    for _ in range(draw(st.integers(0, 30))):
        if alive and draw(st.booleans()):
            freed = alive.pop(draw(st.integers(0, len(alive) - 1)))
            events.append(freed._replace(delta_bytes=-freed.delta_bytes))
        else:
            alive.append(
                MemoryEvent(
                    draw(st.integers(1, 50)),
                    draw(st.sampled_from(CATEGORIES)),
                    draw(st.sampled_from("ab")),
                )
            )
            events.append(alive[-1])
    return events


@given(log=logs(), data=st.data())
def test_summary_equals_a_brute_force_over_all_moments(
    log: list[MemoryEvent], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(log)))
    moments = range(start, len(log) + 1)
    totals = [sum(e.delta_bytes for e in log[:moment]) for moment in moments]
    summary = summarize_memory(log, start=start)
    assert summary.peak_bytes == max(totals)
    end = data.draw(st.integers(start, len(log)))
    assert peak_of(log, start=start, end=end) == max(totals[: end - start + 1])
    assert sum(site.bytes for site in summary.sites_at_peak) == summary.peak_bytes
    for category in CATEGORIES:
        of_category = [
            sum(e.delta_bytes for e in log[:moment] if e.category == category) for moment in moments
        ]
        assert summary.high_bytes[category] == max(of_category)
        assert summary.end_bytes[category] == of_category[-1]


# --- One layer, by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("fake", [True, False])
def test_one_linear_layer_by_hand(fake: bool) -> None:
    batch, width, classes = 4, 3, 2
    cost = profile_step(
        nn.Linear(width, classes),
        adamw,
        input_shape=(batch, width),
        num_classes=classes,
        loss="sum",
        fake=fake,
    )
    weight, bias = width * classes * FLOAT, classes * FLOAT
    inputs, logits, loss = batch * width * FLOAT, batch * classes * FLOAT, FLOAT
    params = weight + bias
    steps = 2 * FLOAT
    assert cost.peak_param_bytes == params
    assert cost.peak_grad_bytes == params
    assert cost.peak_buffer_bytes == 0
    assert cost.peak_activation_bytes == inputs + logits + loss
    # The loss's own gradient is expanded without a copy; one node computes the layer's two.
    assert cost.peak_temp_bytes == FLOAT + weight + bias
    assert cost.optimizer_state_bytes == 2 * params + steps
    # AdamW without foreach holds the denominator (sqrt, then divided: two tensors) at a time.
    assert cost.peak_optimizer_bytes == 2 * params + steps + 2 * weight
    assert cost.peak_bytes == (params + params + inputs + logits + loss + cost.peak_optimizer_bytes)
    # AdamW makes the state of all parameters before it updates the first one.
    assert cost.first_step_peak_bytes == cost.peak_bytes


def test_sgd_without_momentum_keeps_no_state() -> None:
    cost = profile_step(nn.Linear(3, 2), sgd, input_shape=(1, 3), num_classes=2)
    assert cost.optimizer_state_bytes == 0
    assert cost.peak_optimizer_bytes == 0


def test_labels_count_as_input() -> None:
    model = nn.Flatten(), nn.Linear(3, 2)
    shape = (5, 3)
    summed = profile_step(nn.Sequential(*model), sgd, input_shape=shape, num_classes=2, loss="sum")
    entropy = profile_step(nn.Sequential(*model), sgd, input_shape=shape, num_classes=2)
    log_probabilities, total_weight = 5 * 2 * FLOAT, FLOAT
    assert entropy.peak_activation_bytes - summed.peak_activation_bytes == (
        5 * LONG + log_probabilities + total_weight
    )


def test_a_view_and_an_in_place_operator_hold_nothing_of_their_own() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.view(-1, 6)[:, :].relu_().t().t())

    plain = profile_step(nn.Linear(6, 2), sgd, input_shape=(4, 6), num_classes=2)
    views = profile_step(Views(), sgd, input_shape=(4, 6), num_classes=2)
    assert views.peak_activation_bytes == plain.peak_activation_bytes


def test_a_tensor_that_grows_in_place_is_followed() -> None:
    class Grows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            scratch = torch.empty(1)
            scratch.resize_(1000)
            y: Tensor = self.fc(x)
            return y

    for fake in (True, False):
        plain = profile_step(nn.Linear(6, 2), sgd, input_shape=(4, 6), num_classes=2, fake=fake)
        grown = profile_step(Grows(), sgd, input_shape=(4, 6), num_classes=2, fake=fake)
        inputs, logits = 4 * 6 * FLOAT, 4 * 2 * FLOAT
        assert grown.peak_activation_bytes == inputs + 4 * LONG + 1000 * FLOAT + logits
        assert plain.peak_activation_bytes < 1000 * FLOAT


def test_a_parameter_whose_data_the_optimizer_replaces_stays_a_parameter() -> None:
    class Replacing(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.data = p.data - p.grad

    for fake in (True, False):
        cost = profile_step(
            nn.Linear(3, 2),
            lambda model: Replacing(model.parameters()),
            input_shape=(1, 3),
            num_classes=2,
            fake=fake,
        )
        assert cost.optimizer_state_bytes == 0
        assert cost.peak_param_bytes == 8 * FLOAT


def test_state_that_an_optimizer_makes_at_once_counts_as_state() -> None:
    model = nn.Linear(3, 2)
    cost = profile_step(
        model,
        lambda m: torch.optim.Adagrad(m.parameters(), foreach=False),
        input_shape=(1, 3),
        num_classes=2,
    )
    assert cost.optimizer_state_bytes == 8 * FLOAT + 2 * FLOAT


# --- Whole networks -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18_cost() -> StepCost:
    return profile_step(
        torchvision.models.resnet18(num_classes=10),
        adamw,
        input_shape=(2, 3, 64, 64),
        num_classes=10,
    )


def test_adamw_holds_two_states_and_two_temporaries(resnet18_cost: StepCost) -> None:
    sizes = [p.numel() for p in torchvision.models.resnet18(num_classes=10).parameters()]
    state = 2 * sum(sizes) * FLOAT + len(sizes) * FLOAT
    assert resnet18_cost.optimizer_state_bytes == state
    # Two for the parameter at hand, and the last one's, which a loop variable still names.
    temporaries = max(2 * now + last for last, now in itertools.pairwise([0, *sizes]))
    assert temporaries == 2 * max(sizes) + 512
    assert resnet18_cost.peak_optimizer_bytes == state + temporaries * FLOAT


def test_sites_at_the_peak_sum_to_it(resnet18_cost: StepCost) -> None:
    assert sum(site.bytes for site in resnet18_cost.bytes_at_peak) == resnet18_cost.peak_bytes
    assert list(resnet18_cost.bytes_at_peak) == sorted(resnet18_cost.bytes_at_peak)


def test_parameters_and_state_at_the_peak_stand_with_their_layers(resnet18_cost: StepCost) -> None:
    at_peak = {(s.category, s.module): s.bytes for s in resnet18_cost.bytes_at_peak}
    largest = 512 * 512 * 9 * FLOAT
    assert at_peak["param", "layer4.1.conv2"] == largest
    assert at_peak["grad", "layer4.1.conv2"] == largest
    assert at_peak["optimizer", "layer4.1.conv2"] in {2 * largest, 4 * largest}
    assert at_peak["buffer", "bn1"] == 2 * 64 * FLOAT + LONG


def test_category_sum_is_no_less_than_the_peak(resnet18_cost: StepCost) -> None:
    assert resnet18_cost.category_sum_bytes > resnet18_cost.peak_bytes
    assert resnet18_cost.category_sum_bytes == (
        resnet18_cost.peak_param_bytes
        + resnet18_cost.peak_buffer_bytes
        + resnet18_cost.peak_grad_bytes
        + resnet18_cost.peak_activation_bytes
        + resnet18_cost.peak_temp_bytes
        + resnet18_cost.peak_optimizer_bytes
    )


def test_activations_scale_with_the_batch_and_state_does_not() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=10)

    def measure(batch: int) -> StepCost:
        return profile_step(
            model, momentum, input_shape=(batch, 3, 64, 64), num_classes=10, loss="sum"
        )

    one, two, thousand = measure(1), measure(2), measure(1000)
    for_each = two.peak_activation_bytes - one.peak_activation_bytes
    assert for_each > 0
    assert thousand.peak_activation_bytes == one.peak_activation_bytes + 999 * for_each
    assert one.peak_param_bytes == thousand.peak_param_bytes
    assert one.optimizer_state_bytes == thousand.optimizer_state_bytes
    assert one.aten_ops == thousand.aten_ops
    assert thousand.forward_flops == 1000 * one.forward_flops


# --- GaLore ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def galore() -> Iterator[type]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("galore_torch.galore_projector")

    class ConvProjector(module.GaLoreProjector):  # type: ignore[misc, name-defined]
        """GaLore's projector for weights of any shape: (out, *rest) is taken as (out, rest)."""

        def project(self, full_rank_grad: Tensor, iter: int) -> Tensor:  # noqa: A002
            self.shape = full_rank_grad.shape
            return super().project(full_rank_grad.flatten(1), iter)

        def project_back(self, low_rank_grad: Tensor) -> Tensor:
            return super().project_back(low_rank_grad).view(self.shape)

    return ConvProjector


def galore_adamw(projector: type, rank: int) -> Callable[[nn.Module], torch.optim.Optimizer]:
    from galore_torch import GaLoreAdamW

    def make(model: nn.Module) -> torch.optim.Optimizer:
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim == 1]
        settings = {"rank": rank, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
        optimizer = GaLoreAdamW(
            [{"params": vectors}, {"params": matrices, **settings}], no_deprecation_warning=True
        )
        for p in matrices:
            optimizer.state[p]["projector"] = projector(**settings)
        return optimizer

    return make


def test_galore_s_state_projection_and_svd(galore: type) -> None:
    rank = 2
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    for fake in (True, False):
        cost = profile_step(
            model, galore_adamw(galore, rank), input_shape=(1, 3, 8, 8), num_classes=4, fake=fake
        )
        # (8, 27) and (4, 8) are wide: the left vectors are kept, a slice of the whole (m, m) U.
        moments = 2 * rank * 27 + 2 * rank * 8 + 2 * 4
        whole_u = 8 * 8 + 4 * 4
        assert cost.optimizer_state_bytes == (moments + whole_u) * FLOAT
        assert cost.projection_flops == (6 * 27 * 8**2 + 20 * 8**3) + (6 * 8 * 4**2 + 20 * 4**3)
        matmuls = sum(s.flops for s in cost.flops_by_site if s[0] == "optimizer" and "mm" in s[2])
        assert matmuls == 2 * 2 * rank * (8 * 27 + 4 * 8)
        assert {s.module for s in cost.flops_by_site if s.phase == "projection"} == {"0", "3"}


def test_galore_on_a_resnet_saves_optimizer_state(galore: type, resnet18_cost: StepCost) -> None:
    cost = profile_step(
        torchvision.models.resnet18(num_classes=10),
        galore_adamw(galore, 4),
        input_shape=(2, 3, 64, 64),
        num_classes=10,
    )
    assert cost.optimizer_state_bytes < resnet18_cost.optimizer_state_bytes / 5
    assert cost.backward_flops == resnet18_cost.backward_flops
    assert cost.projection_flops > 0
    assert cost.peak_grad_bytes == resnet18_cost.peak_grad_bytes


@pytest.mark.parametrize(
    ("architecture", "optimizer_mib", "total_mib"),
    [("resnet18", 24.91, 140.80), ("mobilenet_v2", 5.89, 107.13)],
)
def test_the_paper_s_galore_rows_are_reproduced(
    galore: type, architecture: str, optimizer_mib: float, total_mib: float
) -> None:
    cost = profile_step(
        torchvision.models.get_model(architecture, num_classes=2),
        galore_adamw(galore, 4),
        input_shape=(1, 3, 224, 224),
        num_classes=2,
        loss="sum",
    )
    assert cost.peak_optimizer_bytes / 2**20 == pytest.approx(optimizer_mib, abs=0.05)
    assert cost.category_sum_bytes / 2**20 == pytest.approx(total_mib, abs=0.05)


# --- What must not leak ---------------------------------------------------------------------------


def test_many_profiles_leave_nothing_behind() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(2, 2, bias=False))

    def profile() -> None:
        profile_step(model, adamw, input_shape=(1, 1, 1), num_classes=2)

    def count() -> tuple[int, int]:
        gc.collect()
        kinds = [type(o) for o in gc.get_objects()]
        return sum(k in {FakeTensor, FakeTensorMode, StepRecorder} for k in kinds), len(kinds)

    profile()
    traces_before, objects_before = count()
    for _ in range(50):
        profile()
    traces, objects = count()
    assert traces <= traces_before
    assert objects - objects_before < 50


def test_the_garbage_collector_is_left_as_it_was() -> None:
    def profile() -> None:
        profile_step(nn.Linear(3, 2), sgd, input_shape=(1, 3), num_classes=2)

    assert gc.isenabled()
    profile()
    assert gc.isenabled()
    gc.disable()
    try:
        profile()
        assert not gc.isenabled()
    finally:
        gc.enable()
