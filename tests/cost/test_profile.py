"""The profile as a whole: attribution, the model left alone, refusals, published numbers."""

import warnings
from collections import OrderedDict, defaultdict
from typing import NamedTuple

import pytest
import torch
from network_zoo import BOTH, adamw, step
from tiny_network import tiny_network
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft


SMALL = (2, 3, 12, 12)


def dora(model):
    config = peft.LoraConfig(r=4, use_dora=True, target_modules=["conv", "linear", "head"])
    return peft.get_peft_model(model, config)


def test_sites_sum_to_the_totals():
    cost = step(dora(tiny_network()), SMALL, classes=4, optimizer=adamw)
    sums = dict.fromkeys(("forward", "backward", "optimizer", "projection"), 0)
    for site in cost.flops_by_site:
        assert site.flops > 0
        sums[site.phase] += site.flops
    assert sums == {
        "forward": cost.forward_flops,
        "backward": cost.backward_flops,
        "optimizer": cost.optimizer_flops,
        "projection": 0,
    }
    assert list(cost.flops_by_site) == sorted(cost.flops_by_site)
    assert sum(site.bytes for site in cost.bytes_at_peak) == cost.peak_bytes


def test_a_checkpointed_layer_s_second_forward_pass_is_its_own_and_in_the_backward():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 2)

        def forward(self, x):
            hidden = torch.utils.checkpoint.checkpoint(
                self.first, x, use_reentrant=False, preserve_rng_state=False
            )
            return self.second(hidden.relu())

    cost = step(Checkpointed(), (1, 3), optimizer=adamw)
    at_first = [s for s in cost.flops_by_site if s.module == "first" and s.phase == "backward"]
    # Its weight's gradient, and the layer over again: the input needs no gradient.
    assert sum(s.flops for s in at_first) in {2 * 3 * 3, 2 * 2 * 3 * 3}
    assert {s.module for s in cost.flops_by_site if s.phase == "backward"} == {"first", "second"}


class Pair(NamedTuple):
    weight: Tensor
    name: str


class Odd(nn.Module):
    """Tied weights, unregistered tensors, a shared storage, and state that a forward pass sets."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(3)
        self.plain = torch.ones(3)
        self.several = {"one": [torch.ones(3)], "two": (torch.ones(3), "text")}
        self.others = OrderedDict(pair=Pair(torch.ones(3), "text"), each=defaultdict(list))
        self.others["each"]["weight"].append(torch.ones(3))
        self.hidden = [nn.Linear(3, 3).requires_grad_(False)]
        self.register_buffer("part", self.plain[:2])
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        self.last = x
        self.plain.mul_(0.5)
        x = self.norm(self.b(self.a(x))) + self.plain + self.several["one"][0]
        x = x + self.others["pair"].weight + self.others["each"]["weight"][0]
        x = self.hidden[0](x + self.several["two"][0])
        return self.fc(x)


@BOTH
@pytest.mark.parametrize("make", [Odd, lambda: dora(tiny_network())])
def test_the_model_is_unchanged(make, fake):
    model = make().train()
    model.requires_grad_(True)
    shape = (4, 3) if isinstance(model, Odd) else SMALL
    classes = 2 if isinstance(model, Odd) else 4
    some = next(iter(model.parameters()))
    some.grad = torch.full_like(some, 7.0)
    objects = [*model.parameters(), *model.buffers()]
    values = [t.detach().clone() for t in objects]
    attributes = {module: dict(vars(module)) for module in model.modules()}
    generator_state = torch.get_rng_state()

    step(model, shape, classes=classes, optimizer=adamw, fake=fake)

    assert torch.equal(torch.get_rng_state(), generator_state)
    after = [*model.parameters(), *model.buffers()]
    assert all(new is old for new, old in zip(after, objects, strict=True))
    assert all(torch.equal(new, old) for new, old in zip(after, values, strict=True))
    assert some.grad is not None
    assert bool((some.grad == 7).all())
    assert all(p.grad is None for p in model.parameters() if p is not some)
    for module, before in attributes.items():
        assert list(vars(module)) == list(before)
        assert all(vars(module)[name] is value for name, value in before.items())
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    if isinstance(model, Odd):
        assert torch.equal(model.plain, torch.ones(3))
        assert model.part.data_ptr() == model.plain.data_ptr()


class Remembering(nn.Module):
    """A forward pass that fills containers, some of them empty, and adds a module."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.seen = []
        self.cache = {"inner": {}}
        self.alias = (self.seen, self.cache)

    def forward(self, x):
        self.seen.append(x)
        self.cache["inner"][tuple(x.shape)] = x
        self.cache["x"] = x
        if not hasattr(self, "late"):
            self.late = nn.Linear(3, 3)
        return self.fc(x + self.alias[0][0])


@BOTH
def test_nothing_of_the_step_is_left_in_the_model_s_containers(fake):
    model = Remembering()
    containers = (model.seen, model.cache, model.cache["inner"])
    step(model, (1, 3), optimizer=adamw, fake=fake)
    after = (model.seen, model.cache, model.cache["inner"])
    assert all(new is old for new, old in zip(after, containers, strict=True))
    assert (model.seen, model.cache) == ([], {"inner": {}})
    assert not hasattr(model, "late")
    assert type(model(torch.ones(1, 3))) is Tensor


@BOTH
def test_tied_and_unregistered_tensors_are_counted_once(fake):
    cost = step(Odd(), (4, 3), optimizer=adamw, fake=fake)
    tied, biases, norm, fc = 9, 6, 6, 8
    assert cost.peak_param_bytes == 4 * (tied + biases + norm + fc)
    assert cost.peak_grad_bytes == cost.peak_param_bytes
    # Running mean and variance, the batch count, and five plain tensors; `part` shares one. And a
    # layer in a list, whose tensors are nobody's parameters.
    assert cost.peak_buffer_bytes == 4 * 6 + 8 + 4 * 15 + 4 * (9 + 3)
