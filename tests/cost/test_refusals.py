"""What has no step to measure is refused by name and place, on fake tensors and on real ones."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from network_zoo import BOTH, Applying, step, with_function
from torch import Tensor, nn

from peft_regress.cli.main import main
from peft_regress.cost import NothingToTrainError, UncountedOperatorError, UnprofilableModelError

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in ("Sparse CSR tensor support is in beta", ".*[Ss]parse.*invariant checks")
]

BATCH = 3


@dataclass(frozen=True)
class Refused:
    """A model, the error with a part of its message, and the settings of the step."""

    make: Any
    message: str
    error: type[Exception] = UnprofilableModelError
    settings: dict[str, Any] = field(default_factory=dict)


def linear():
    return nn.Linear(4, 2)


def with_unused_parameter():
    made = linear().requires_grad_(False)
    made.unused = nn.Parameter(torch.ones(1))
    return made


def in_closure(matrix):
    return with_function(lambda x: (matrix @ x.T).T)


@torch.library.custom_op("peft_regress_tests::product", mutates_args=())
def custom_product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@custom_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    return nn.Sequential(layer, linear())


ORIGINAL = linear()
ORIGINAL_PARAMETERS = list(ORIGINAL.parameters())

UNCOUNTED = {
    "peft_regress_tests.product": lambda x: x + custom_product(x.detach(), torch.eye(4)),
    "aten.linalg_qr": lambda x: x @ torch.linalg.qr(x.T @ x + torch.eye(4)).Q,
    "aten._cdist_forward": lambda x: x + torch.cdist(x, x).sum(),
    "aten._int_mm": lambda x: (
        x + torch._int_mm(*torch.ones(2, 32, 32, dtype=torch.int8).unbind()).sum()
    ),
}
REFUSED = {
    "sparse embedding": Refused(
        lambda: nn.Sequential(nn.Embedding(4, 2, sparse=True)),
        "module '0' of Sequential makes sparse gradients: build it with sparse=False",
    ),
    "no parameters": Refused(nn.Flatten, "no parameter of Flatten requires", NothingToTrainError),
    "frozen": Refused(
        lambda: linear().requires_grad_(False), "no parameter of Linear", NothingToTrainError
    ),
    "unused": Refused(with_unused_parameter, "depends on no trainable", NothingToTrainError),
    "classes": Refused(linear, r"shape \(3, 2\).*num_classes=7", settings={"classes": 7}),
    "a list": Refused(
        lambda: nn.Sequential(linear(), Applying(lambda y: [y])),
        "returns a list; for num_classes=2 it must be logits",
    ),
    "torch.sparse_csr": Refused(
        lambda: in_closure(torch.eye(4).to_sparse_csr()),
        r"forward pass of module '1', .*torch\.sparse_csr",
    ),
    **{
        operator: Refused(
            lambda function=function: with_function(function),
            f"{operator}, reached in the forward pass of module '1'",
            UncountedOperatorError,
        )
        for operator, function in UNCOUNTED.items()
    },
    "quantized": Refused(
        quantized, r"quantized\.linear_dynamic.* module '0\.0'", UncountedOperatorError
    ),
    "one kernel": Refused(
        linear,
        "foreach=False",
        UncountedOperatorError,
        {"optimizer": lambda m: torch.optim.SGD(m.parameters(), fused=True)},
    ),
    # They are not the stand-ins that get gradients: it would train, and cost, nothing.
    "the original's parameters": Refused(
        lambda: ORIGINAL,
        "AdamW has none of the trainable parameters of",
        NothingToTrainError,
        {"optimizer": lambda _: torch.optim.AdamW(ORIGINAL_PARAMETERS, foreach=False)},
    ),
}


@BOTH
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused(name, fake):
    row = REFUSED[name]
    settings = dict(row.settings)
    shape = settings.pop("input_shape", (BATCH, 4))
    with pytest.raises(row.error, match=row.message):
        step(row.make(), shape, fake=fake, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("squeezenet1_1", "--resolution", "8"), "Output size is too small"),
        (("vit_b_16", "--resolution", "64"), "Wrong image height! Expected 224 but got 64!"),
        (("resnet18", "--resolution", "1", "--bn", "train"), "more than 1 value per channel"),
    ],
)
def test_the_command_says_in_one_line_what_a_network_cannot_take(arguments, message, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(["cost", "--method", "head", "--architecture", *arguments])
    out, err = capfd.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err
