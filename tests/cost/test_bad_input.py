"""Models, steps and optimizers as people hand them over: the right numbers, or what to do instead.

What is right is a closed form, a plain model's cost, or the same step on real tensors.
"""

import dataclasses

import pytest
import torch
from network_zoo import BOTH, adamw, sgd, step, with_function
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from peft_regress.cost import StepCost, UnprofilableModelError

BATCH = 3


def cost_of(model, shape=(BATCH, 4), **settings):
    return step(model, shape, **settings)


LAYERS = 2 * BATCH * (4 * 4 + 4 * 2)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: x * x.sum().item(), "aten._local_scalar_dense"),
        (lambda x: x if bool((x > -1e9).all()) else -x, "aten._local_scalar_dense"),
        (lambda x: x[x[:, 0] < 1e9], "aten.nonzero"),
        (lambda x: x + x.detach().unique().sum(), "aten._unique2"),
        (lambda x: x * torch.equal(x, x), "aten.equal"),
        (lambda x: x + torch.from_numpy(x.detach().numpy()), "numpy"),
    ],
    ids=["item", "if", "mask", "unique", "equal", "numpy"],
)
def test_what_needs_values_is_named_with_its_place_and_runs_for_real(function, operator):
    model = with_function(function)
    with pytest.raises(UnprofilableModelError) as caught:
        cost_of(model)
    message = str(caught.value)
    assert message.startswith("Sequential cannot be measured on fake tensors: ")
    assert operator in message
    assert "the forward pass of module '1'" in message
    assert message.endswith("Pass fake=False to run the step for real.")
    assert cost_of(model, fake=False).forward_flops == LAYERS


def compiled(model):
    return torch.compile(model, backend="eager")


@BOTH
@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, torch.fx.symbolic_trace])
def test_a_wrapped_model_costs_what_it_wraps(wrap, fake):
    """A compiled one runs as it was written: what a compiler fuses is not measured."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    plain, wrapped = (cost_of(each, fake=fake) for each in (model, wrap(model)))
    for field in dataclasses.fields(StepCost):
        if field.type in {"int", int}:
            assert getattr(wrapped, field.name) == getattr(plain, field.name), field.name


@BOTH
def test_hooks_are_run_and_counted_as_what_they_do(fake):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    plain = cost_of(model, fake=fake)
    model[0].register_forward_hook(lambda _module, _inputs, y: y @ torch.eye(4))
    model[0].weight.register_hook(lambda grad: grad @ torch.eye(4))
    cost = cost_of(model, fake=fake)
    product, of_gradient = 2 * BATCH * 4 * 4, 2 * 4 * 4 * 4
    assert cost.forward_flops == plain.forward_flops + product
    assert cost.backward_flops == plain.backward_flops + product + of_gradient
    # What a module's hook computes counts for the module.
    own = sum(s.flops for s in cost.flops_by_site if (s.phase, s.module) == ("forward", "0"))
    assert own == 2 * product


@BOTH
def test_optimizers_that_step_in_the_backward_pass_cost_what_one_after_it_does(fake):
    """One a parameter, from the hook on its gradient, which is freed at once."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2))

    def within(stand_in):
        parameters = stand_in.parameters()
        optimizers = {p: torch.optim.AdamW([p], foreach=False) for p in parameters}

        def update(parameter):
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in optimizers:
            parameter.register_post_accumulate_grad_hook(update)
        return sgd(stand_in)

    found, after = (cost_of(model, optimizer=make, fake=fake) for make in (within, adamw))
    same = ("forward_flops", "backward_flops", "optimizer_flops", "optimizer_state_bytes")
    for name in (*same, "peak_optimizer_bytes", "peak_temp_bytes"):
        assert getattr(found, name) == getattr(after, name), name
    assert {s.module for s in found.flops_by_site if s.phase == "optimizer"} == {"", "0", "1"}
    assert found.peak_grad_bytes == 4 * 4 * 64  # the largest parameter's
    assert not _global_optimizer_pre_hooks


STATES = dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Rprop"), 2)


@pytest.mark.parametrize(("optimizer", "states"), [*STATES.items(), ("Adagrad", 1), ("RMSprop", 1)])
def test_torch_s_optimizers_keep_as_many_copies_as_they_are_known_to(optimizer, states):
    def make(model):
        return getattr(torch.optim, optimizer)(model.parameters(), lr=0.01, foreach=False)

    cost, real = (cost_of(nn.Linear(4, 2), optimizer=make, fake=fake) for fake in (True, False))
    assert cost == real
    counters = cost.optimizer_state_bytes - 4 * states * (8 + 2)
    # A step count for each parameter, and NAdam's running product of momenta.
    assert counters in {4 * 2, 4 * 2 * 2}
    assert (counters == 4 * 2 * 2) == (optimizer == "NAdam")


@pytest.mark.parametrize("kind", ["foreach", "fused"])
@pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.1, "amsgrad": True, "maximize": True}, {"weight_decay": 0}]
)
def test_kernels_over_many_tensors_do_the_work_of_one_for_each(kind, optimizer, settings):
    def updates(**kinds):
        make = getattr(torch.optim, optimizer)
        cost = cost_of(
            nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)),
            optimizer=lambda m: make(m.parameters(), lr=0.01, **settings, **kinds),
        )
        return {
            module: sum(s.flops for s in cost.flops_by_site if s[:2] == ("optimizer", module))
            for module in ("0", "1")
        }

    known = updates(foreach=False)
    assert all(known.values())
    assert updates(**{kind: True}) == known
