"""The price of any module: the notebook's function, and models and inputs as they are typed."""

import doctest

import pytest
import torch
from network_zoo import Branching, adamw, sgd, step
from torch import nn

from peft_regress.cost import Call, NeedsValuesError, RandomTensor, pricing, training_cost
from peft_regress.cost.pricing import load_model, parse_inputs
from peft_regress.errors import InputError


def test_the_example_of_the_docstring_is_true():
    assert doctest.testmod(pricing).failed == 0
    assert doctest.testmod(pricing).attempted > 2


def test_a_sum_of_outputs_is_the_classifier_s_step_with_that_loss():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    cost = training_cost(model, RandomTensor((5, 4)))
    plain = step(model, (5, 4), optimizer=adamw, loss="sum")
    assert cost.step == plain
    assert (cost.trainable_params, cost.total_params) == (4 * 3 + 3 * 2 + 2, 4 * 3 + 3 + 3 * 2 + 2)


def test_every_output_gets_a_gradient_and_integers_none():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            a, b = self.a(x), self.b(x).half()
            return {"a": a, "again": a, "rest": (b, b.argmax(), "text")}

    sites = training_cost(Several(), torch.ones(1, 4)).step.flops_by_site
    backward = {s.module: s.flops for s in sites if s.phase == "backward"}
    assert backward == {"a": 2 * 4 * 2, "b": 2 * 4 * 3}


def test_an_output_without_floating_point_has_no_loss():
    class Counting(nn.Linear):
        def forward(self, x):
            return [super().forward(x).argmax()]

    with pytest.raises(InputError, match="Counting returns a list without floating-point tensors"):
        training_cost(Counting(2, 2), torch.ones(1, 2))


def test_the_optimizer_and_the_loss_may_be_one_s_own():
    model = nn.Linear(4, 2)
    one = training_cost(
        model, torch.ones(1, 4), optimizer=sgd, loss=lambda m, b: m(b).square().mean()
    )
    assert one.step.optimizer_state_bytes == 0
    assert training_cost(model, torch.ones(1, 4)).step.optimizer_state_bytes > 0


def test_a_model_that_needs_values_is_priced_on_real_copies_and_the_price_says_so():
    cost = training_cost(Branching(3, 2), torch.ones(1, 3))
    assert cost.step.tensors == "real tensors"
    assert cost.step.forward_flops == 2 * 3 * 2
    with pytest.raises(NeedsValuesError):
        training_cost(Branching(3, 2), torch.ones(1, 3), fake=True)
    assert training_cost(nn.Linear(3, 2), torch.ones(1, 3)).step.tensors == "fake tensors"
    assert (
        training_cost(nn.Linear(3, 2), torch.ones(1, 3), fake=False).step.tensors == "real tensors"
    )


def test_inputs_are_positional_or_named():
    assert parse_inputs(["8x128:int64", "mask=8x128:bool", "3x2", "scale=1"]) == Call(
        (RandomTensor((8, 128), torch.int64), RandomTensor((3, 2), torch.float32)),
        {"mask": RandomTensor((8, 128), torch.bool), "scale": RandomTensor((1,), torch.float32)},
    )


@pytest.mark.parametrize(
    "text",
    ["", "8xx4", "8x-1", "8,4", "x8", "8:int64:int64", "a=b=8", "=8", "1a=8", "8:int65", "8:"],
)
def test_another_text_is_no_input(text):
    with pytest.raises(InputError, match=r"is not \[NAME=\]SHAPE\[:DTYPE\], such as 8x3x224x224"):
        parse_inputs([text])


MODULE = """
import torch
from torch import nn

class Tiny(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class Space:
    build = Tiny

made = Tiny()
number = 3
def no_model(): return 3
def fails(): raise LookupError("two\\nlines")
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "priced_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", ["Tiny", "Space.build", "made"])
def test_a_model_has_the_weights_of_seed_0_and_the_generator_is_left_alone(name):
    load_model(f"priced_models:{name}")  # the import itself draws numbers
    state = torch.get_rng_state()
    one, other = (load_model(f"priced_models:{name}") for _ in range(2))
    assert type(one).__name__ == "Tiny"
    assert torch.equal(one.get_parameter("weight"), other.get_parameter("weight"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("priced_models:number", "cannot be called without arguments: TypeError: 'int' object"),
        ("priced_models:no_model", "returns a int, not a torch.nn.Module"),
        ("priced_models:fails", "cannot be called without arguments: LookupError: two lines"),
    ],
)
def test_what_names_no_model_is_one_line(path, message):
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
