"""Cases of one's own: random data is seeded, and an adapter may put layers into others."""

import torch
from torch import nn

from peft_regress import FineTune
from peft_regress.measure.invariants.probe import of_other_dtype
from peft_regress.measure.objective import Objective
from peft_regress.measure.recipe import Recipe


def random_pairs():
    return tuple((torch.randn(8, 4), torch.arange(8) % 2) for _ in range(2))


def test_data_drawn_from_the_global_generator_is_the_same_each_time(tmp_path):
    case = FineTune(
        "noise/full/linear", model=lambda: nn.Linear(4, 2), data=random_pairs, adapter="full"
    )
    recipe = Recipe.of(case, tmp_path)
    one = recipe.load_data().probe(4)
    torch.randn(3)
    assert torch.equal(recipe.load_data().probe(4)[0], one[0])


class _Named(nn.Module):
    """Two layers: a body, perhaps inside another module, and a head."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.head = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs).float())


class _Rounded(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs).bfloat16()


def layers_of_other_type(body):
    return of_other_dtype(
        _Named(body),
        _Named(nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        objective=Objective(),
        probe=(torch.randn(2, 4), torch.tensor([0, 1])),
        adapter_in_float32=False,
    )


def test_a_layer_that_an_adapter_put_into_another_module_is_not_of_another_type():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    assert layers_of_other_type(inner) == []
    assert layers_of_other_type(nn.Sequential(inner)) == []


def test_a_layer_that_returns_another_type_is_named():
    assert layers_of_other_type(nn.Sequential(_Rounded(4, 4), nn.ReLU())) == [
        "body.0",
        "body.1",
        "body",
    ]
