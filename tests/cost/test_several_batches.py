"""Steps of several batches on one model: they cost what each costs alone, or are refused."""

import pytest
import torch
from tiny_architecture import TinyArchitecture
from torch import Tensor, nn

from peft_regress import registry
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.cost import RandomTensor, profile_training_step
from peft_regress.cost.several_batches import profile_batches
from peft_regress.measure import step_profile
from peft_regress.measure.recipe import ModelRecipe
from peft_regress.measure.step_profile import CostSettings, profile_both, profile_recipe

BATCHES = [{"inputs": RandomTensor((size, 3))} for size in (1, 32)]


def loss(model, batch):
    output: Tensor = model(batch["inputs"])
    return output.square().mean()


def adamw(model):
    return torch.optim.AdamW(model.parameters(), foreach=False)


def together(make, optimizer=adamw):
    return profile_batches(make(), optimizer, batches=BATCHES, loss=loss)


def alone(make, optimizer=adamw):
    return [profile_training_step(make(), optimizer, batch=batch, loss=loss) for batch in BATCHES]


# --- The methods ----------------------------------------------------------------------------------


def both_ways(recipe, one):
    apart = {
        "": profile_recipe(recipe, one, running=True),
        "_b32": profile_recipe(recipe, CostSettings(batch=32, resolution=one.resolution)),
    }
    return profile_both(recipe, one=one), apart


@pytest.fixture
def kept(monkeypatch):
    """Whether each profile was made on one model."""
    found = []

    def spied(*args, **kwargs):
        costs = profile_batches(*args, **kwargs)
        found.append(costs is not None)
        return costs

    monkeypatch.setattr(step_profile, "profile_batches", spied)
    return found


@pytest.mark.parametrize(
    "name",
    ["full", "full-bf16", "head", "bn_head", "norm", "lora", "lora-bf16", "dora", "adalora",
     "galore", "galore-cloned", "lorafa", "loraplus", "pissa", "loha", "lokr", "ia3", "hra"],
)  # fmt: skip
@pytest.mark.usefixtures("clean_registry")
def test_a_method_costs_on_one_model_what_it_costs_on_two(name, kept):
    registry.add("architecture", TinyArchitecture())
    method = registry.get("method", name)
    rank = 4 if method.ranks else None
    recipe = ModelRecipe(method=method, architecture=TinyArchitecture(), rank=rank)
    one, apart = both_ways(recipe, CostSettings(resolution=32))
    assert one == apart
    # Also DoRA, which runs two operators less on one image in a linear layer.
    assert kept == [True]


PAIRINGS = sorted(
    {case.adaptation for name in ("default", "extended") for case in matrix_cases(name)}, key=str
)


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("names", PAIRINGS, ids=str)
def test_every_pairing_costs_on_one_model_what_it_costs_on_two(names):
    recipe = ModelRecipe.of(names)
    try:
        apart = profile_recipe(recipe, CostSettings())
    except Exception as error:  # noqa: BLE001  (whatever the library raises)
        with pytest.raises(type(error)):
            profile_both(recipe)
        return
    one, two = both_ways(recipe, CostSettings())
    assert one == two
    assert apart.step == two[""].step


# --- What is refused ------------------------------------------------------------------------------


class Caching(nn.Linear):
    """Keeps what it made for the first batch."""

    cache: Tensor | None = None

    def forward(self, x):
        if self.cache is None:
            self.cache = x.detach() + 1
        return super().forward(x)


class Doubling(nn.Linear):
    """Computes twice on more than one item."""

    def forward(self, x):
        return super().forward(x) + (super().forward(x) if len(x) > 1 else 0)


class Counting(nn.Linear):
    """Computes twice from its second call on, whatever the size."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + (super().forward(x) if self.calls > 1 else 0)


class Unused(nn.Linear):
    """Has a parameter that no gradient reaches, so that no optimizer keeps state for it."""

    def __init__(self):
        super().__init__(3, 2)
        self.unused = nn.Parameter(torch.ones(1000))


class EverySecond(torch.optim.AdamW):
    """Works twice at every second update."""

    def __init__(self, model):
        super().__init__(model.parameters(), foreach=False)
        self.count = 0

    def step(self):
        self.count += 1
        for _ in range(1 + self.count % 2):
            super().step()


class LateState(torch.optim.AdamW):
    """Makes its state at its second update."""

    def __init__(self, model):
        super().__init__(model.parameters(), foreach=False)
        self.count = 0

    def step(self):
        self.count += 1
        if self.count > 1:
            super().step()


class GreedyAtFirst(torch.optim.AdamW):
    """Needs much memory for a while in its first update alone."""

    def __init__(self, model):
        super().__init__(model.parameters(), foreach=False)

    def step(self):
        if not self.state:
            torch.empty(10_000)
        super().step()


class GreedyAtFirstForward(nn.Linear):
    """Needs much memory for a while in its first forward pass alone."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 1:
            torch.empty(10_000)
        return super().forward(x)


def refuses_to_step(model):
    optimizer = adamw(model)
    optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    return optimizer


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [
        (lambda: Caching(3, 2), adamw),
        (lambda: Counting(3, 2), adamw),
        (Unused, adamw),
        (lambda: nn.Linear(3, 2), EverySecond),
        (lambda: nn.Linear(3, 2), LateState),
        (lambda: nn.Linear(3, 2), refuses_to_step),
    ],
    ids=["cache", "count", "unused", "every-second", "late-state", "raises"],
)
def test_steps_that_need_not_cost_the_same_on_one_model_are_refused(make, optimizer):
    assert together(make, optimizer) is None


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(3, 2), lambda: nn.Sequential(nn.Linear(3, 2)), lambda: Doubling(3, 2)],
    ids=["linear", "sequential", "twice on more than one item"],
)
def test_a_step_that_depends_on_no_other_is_not_refused(make):
    assert together(make) == alone(make)


def test_the_peak_of_the_first_step_is_that_of_its_own_update():
    def make():
        return nn.Linear(3, 2)

    costs = together(make, GreedyAtFirst)
    assert costs is not None
    assert costs == alone(make, GreedyAtFirst)
    for cost, usual in zip(costs, alone(make), strict=True):
        assert cost.peak_bytes == usual.peak_bytes
        assert cost.first_step_peak_bytes > 10_000 * 4 > usual.first_step_peak_bytes


def test_the_peak_of_the_first_step_is_that_of_its_own_forward_pass():
    assert together(lambda: GreedyAtFirstForward(3, 2)) is None
    for cost, usual in zip(
        alone(lambda: GreedyAtFirstForward(3, 2)), alone(lambda: nn.Linear(3, 2)), strict=True
    ):
        assert cost.peak_bytes == usual.peak_bytes
        assert cost.first_step_peak_bytes > 10_000 * 4 > usual.first_step_peak_bytes


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = torch.get_rng_state()
    assert profile_batches(model.eval(), adamw, batches=BATCHES, loss=loss) is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states)


@pytest.mark.usefixtures("clean_registry")
def test_a_method_that_is_refused_is_profiled_on_a_model_for_each_batch(monkeypatch):
    recipe = ModelRecipe(
        method=registry.get("method", "lora"), architecture=TinyArchitecture(), rank=4
    )
    settings = CostSettings(resolution=32)
    monkeypatch.setattr(step_profile, "profile_batches", lambda *_, **__: None)
    one, apart = both_ways(recipe, settings)
    assert one == apart
