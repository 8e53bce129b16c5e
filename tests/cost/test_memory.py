"""Memory: the log, hand-computed steps, and GaLore's state."""

import gc

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_zoo import BOTH, adamw, step
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from peft_regress import registry
from peft_regress.cost.recorder import StepRecorder
from peft_regress.cost.step_cost import CATEGORIES, ByteSite, Mark, StepLog, StepMarks, highest

FLOAT = 4


@st.composite
def logs(draw):
    """Draw a log of allocations, some of which are freed again."""
    categories = st.sampled_from(["param", "activation", "optimizer"])
    modules, operators = st.sampled_from(["", "conv1", "fc"]), st.sampled_from(["", "aten.mm"])
    event = st.builds(ByteSite, categories, modules, operators, st.integers(1, 9))
    log, alive = [], []
    for made in draw(st.lists(event, max_size=15)):
        log.append(made)
        alive.append(made)
        if draw(st.booleans()):
            freed = alive.pop(draw(st.integers(0, len(alive) - 1)))
            log.append(freed._replace(bytes=-freed.bytes))
    return log


@settings(deadline=None, derandomize=True, max_examples=200)
@given(log=logs(), data=st.data())
def test_costs_equal_a_brute_force_over_all_moments(log, data):
    start = data.draw(st.integers(0, len(log)))
    moments = range(start, len(log) + 1)
    begins, starts, ends = (Mark(at, 0, 0) for at in (0, start, len(log)))
    cost = StepLog(log, (), StepMarks(begins, starts, starts, starts, ends), "real tensors").cost()

    def held(count, category=None):
        places = {e[:3] for e in log if category in {None, e.category}}
        sums = {p: sum(e.bytes for e in log[:count] if e[:3] == p) for p in places}
        return tuple(sorted(ByteSite(*place, size) for place, size in sums.items() if size))

    def total(count, category=None):
        return sum(site.bytes for site in held(count, category))

    def first_high(category=None):
        return max(moments, key=lambda count: total(count, category))

    assert highest(log, start=start) == (total(first_high()), first_high())
    assert cost.peak_bytes == total(first_high())
    assert cost.bytes_at_peak == held(first_high())
    assert cost.first_step_peak_bytes == max(map(total, range(start + 1)))
    assert cost.state_bytes == held(len(log), "optimizer")
    assert cost.optimizer_state_bytes == total(len(log), "optimizer")
    highs = {category: held(first_high(category), category) for category in CATEGORIES}
    assert sorted(cost.bytes_at_highs) == sorted(site for one in highs.values() for site in one)
    for category in CATEGORIES:
        high = getattr(cost, f"peak_{category}_bytes")
        assert high == sum(site.bytes for site in highs[category])


@BOTH
def test_one_linear_layer_by_hand(fake):
    batch, width, classes = 4, 3, 2
    cost = step(
        nn.Linear(width, classes),
        (batch, width),
        classes=classes,
        optimizer=adamw,
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


def test_a_parameter_whose_data_the_optimizer_replaces_stays_a_parameter():
    class Replacing(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data = p.data - p.grad

    for fake in (True, False):
        replacing = lambda model: Replacing(model.parameters())  # noqa: E731
        cost = step(nn.Linear(3, 2), (1, 3), optimizer=replacing, fake=fake)
        assert cost.optimizer_state_bytes == 0
        assert cost.peak_param_bytes == 8 * FLOAT


def test_galore_s_state_projection_and_svd():
    rank = 2
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    # As a case does, before the step: the import of galore_torch makes tensors.
    galore = registry.get("method", "galore").at(rank, heads=())
    galore.adapt(model, seed=0)
    for fake in (True, False):
        cost = step(model, (1, 3, 8, 8), classes=4, optimizer=galore.make_optimizer, fake=fake)
        # (8, 27) and (4, 8) are wide: the left vectors are kept, a slice of the whole (m, m) U.
        moments = 2 * rank * 27 + 2 * rank * 8 + 2 * 4
        whole_u = 8 * 8 + 4 * 4
        assert cost.optimizer_state_bytes == (moments + whole_u) * FLOAT
        assert cost.projection_flops == (6 * 27 * 8**2 + 20 * 8**3) + (6 * 8 * 4**2 + 20 * 4**3)
        matmuls = sum(s.flops for s in cost.flops_by_site if s[0] == "optimizer" and "mm" in s[2])
        assert matmuls == 2 * 2 * rank * (8 * 27 + 4 * 8)
        assert {s.module for s in cost.flops_by_site if s.phase == "projection"} == {"0", "3"}


def test_many_profiles_leave_nothing_behind():
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten(), nn.Linear(2, 2, bias=False))

    def profile():
        step(model, (1, 1, 1), optimizer=adamw)

    def count():
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
