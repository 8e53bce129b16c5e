"""The profile as a whole: attribution, the model left alone, refusals, published numbers."""

import warnings
from collections import OrderedDict, defaultdict
from typing import NamedTuple

import pytest
import torch
import torchvision
from network_zoo import BOTH, adamw, by_module, step
from tiny_network import tiny_network
from torch import Tensor, nn

from peft_regress.cost.module_trail import ModuleTrail

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft


SMALL = (2, 3, 12, 12)
MIB = 2**20


def build(architecture):
    torch.manual_seed(0)
    return torchvision.models.get_model(architecture, num_classes=2)


def lora(model, *, dora=False, linear=True):
    targets = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Conv2d) and module.groups == 1)
        or (linear and isinstance(module, nn.Linear))
    ]
    config = peft.LoraConfig(r=4, lora_alpha=4, use_dora=dora, target_modules=targets)
    return peft.get_peft_model(model, config)


def tiny_cost(model):
    return step(model, SMALL, classes=4, optimizer=adamw)


BOTH_TINY = pytest.mark.parametrize("make", [tiny_network, lambda: lora(tiny_network(), dora=True)])


# --- Attribution ----------------------------------------------------------------------------------


@BOTH_TINY
def test_attribution_changes_no_total(make, monkeypatch):
    model = make()
    cost = tiny_cost(model)
    monkeypatch.setattr(ModuleTrail, "follow", lambda *_: None)
    unattributed = tiny_cost(model)
    assert {s.module for s in unattributed.flops_by_site if s.phase == "forward"} == {""}
    for name, value in vars(cost).items():
        if isinstance(value, int):
            assert getattr(unattributed, name) == value, name


@BOTH_TINY
def test_sites_sum_to_the_totals(make):
    cost = tiny_cost(make())
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


def test_a_layer_keeps_its_name_when_peft_wraps_it():
    names = by_module(tiny_cost(lora(tiny_network())))
    parts = ("base_layer", "lora_A.default", "lora_B.default")
    adapted = {f"{layer}.{part}" for layer in ("conv", "linear", "head") for part in parts}
    assert names.keys() == adapted | {"depthwise"}
    # The stem is frozen and no image needs a gradient.
    assert names["conv.base_layer"][1] == 0


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


# --- The model is left as it was ------------------------------------------------------------------


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
@pytest.mark.parametrize("make", [Odd, lambda: lora(tiny_network(), dora=True)])
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


# --- Published and measured numbers ---------------------------------------------------------------


PAPER_MIB = {
    "resnet18-full": (42.64, 42.64, 21.19, 9.38, 103.28, 219.16),
    "resnet18-lora": (43.19, 0.55, 21.74, 6.12, 1.24, 72.89),
    "resnet18-dora": (43.20, 0.57, 67.34, 12.25, 1.28, 124.68),
    "mobilenet_v2-full": (8.49, 8.49, 74.95, 9.19, 20.10, 121.35),
    "mobilenet_v2-lora": (8.77, 0.28, 75.84, 9.38, 0.61, 95.01),
}
PAPER_GFLOPS = {
    "resnet18-full": (3.63, 7.05),
    "mobilenet_v2-full": (0.60, 11.7),
    "resnet18-lora": (3.76, 3.70),
    "mobilenet_v2-lora": (0.66, None),
}


@pytest.mark.parametrize(
    "row",
    [pytest.param(r, marks=() if r == "resnet18-dora" else pytest.mark.slow) for r in PAPER_MIB],
)
def test_the_paper_s_rows_are_reproduced(row):
    """Under its settings (arXiv 2507.23536): 2 classes, summed logits, BatchNorm in train mode.

    By day the rows of MemTracker show the other methods (test_peers.py).
    """
    architecture, method = row.split("-")
    model = build(architecture)
    if method != "full":
        model = lora(model, dora=method == "dora", linear=False)
    cost = step(model.train(), (1, 3, 224, 224), optimizer=adamw, loss="sum")
    ours = (
        cost.peak_param_bytes,
        cost.peak_grad_bytes,
        cost.peak_activation_bytes,
        cost.peak_temp_bytes,
        cost.peak_optimizer_bytes,
        cost.category_sum_bytes,
    )
    assert [value / MIB for value in ours] == pytest.approx(PAPER_MIB[row], abs=0.05)
    forward, backward = PAPER_GFLOPS.get(row, (None, None))
    if forward is not None:
        assert cost.paper_forward_flops / 1e9 == pytest.approx(forward, abs=0.006)
    if backward is not None:
        assert cost.paper_backward_flops / 1e9 == pytest.approx(backward, rel=0.015)
