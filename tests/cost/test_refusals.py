"""What has no step to measure is refused by name and place, on fake tensors and on real ones."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from network_zoo import BOTH, Applying, step, with_function
from torch import Tensor, nn

from peft_regress.cli.main import main
from peft_regress.cost import (
    NeedsValuesError,
    NothingToTrainError,
    UncountedOperatorError,
    UnprofilableModelError,
)
from peft_regress.errors import InputError, PeftRegressError

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{start}")
    for start in (
        "Lazy modules are a new feature",
        ".*torch.jit.script.* is deprecated",
        "Sparse CSR tensor support is in beta",
        ".*[Ss]parse.*invariant checks",
    )
]

BATCH = 3


@dataclass(frozen=True)
class Refused:
    """A model, the settings of its step, and the error with a part of its message."""

    make: Any
    error: type[Exception]
    message: str
    settings: dict[str, Any] = field(default_factory=dict)


def linear():
    return nn.Linear(4, 2)


# --- Steps that no model could take ---------------------------------------------------------------


def setting(message, **settings):
    return Refused(linear, InputError, message, settings)


SETTINGS = {
    "negative": setting(r"shape \(-1, 4\) is not the shape of a batch", input_shape=(-1, 4)),
    "empty": setting(r"shape \(\) is not the shape of a batch", input_shape=()),
    "fraction": setting(r"shape \(1.5, 4\) is not a tuple of whole numbers", input_shape=(1.5, 4)),
    "boolean": setting(r"shape \(True, 4\) is not a tuple of whole", input_shape=(True, 4)),
    "text": setting(r"shape \('3', 4\) is not a tuple of whole numbers", input_shape=("3", 4)),
    "number": setting("shape 4 is not a tuple of whole numbers", input_shape=4),
    "huge": setting(r"shape \(10+, 4\) is not the shape of a batch", input_shape=(10**30, 4)),
    "no class": setting("num_classes must be 1 or more, not 0", classes=0),
    "half a class": setting("num_classes must be 1 or more, not 2.0", classes=2.0),
    "loss": setting("of 'cross-entropy', 'sum', not 'cross_entropy'", loss="cross_entropy"),
    "no loss": setting("one of 'cross-entropy', 'sum', not None", loss=None),
    "integers": setting("floating-point type, not torch.int64", dtype=torch.int64),
    "booleans": setting("floating-point type, not torch.bool", dtype=torch.bool),
}

# --- Models ---------------------------------------------------------------------------------------


def model(make, message, error=UnprofilableModelError, **settings):
    return Refused(make, error, message, settings)


def with_hook():
    made = linear()
    made.weight.register_post_accumulate_grad_hook(lambda _: None)
    return made


def made_in_inference_mode():
    with torch.inference_mode():
        return linear()


def with_unused_parameter():
    made = linear().requires_grad_(False)
    made.unused = nn.Parameter(torch.ones(1))
    return made


class CutOff(nn.Linear):
    """Its output has no graph."""

    def __init__(self, cut):
        super().__init__(4, 2)
        self.cut = cut

    def forward(self, x):
        if self.cut == "detach":
            return super().forward(x).detach()
        with torch.no_grad():
            return super().forward(x)


MODELS = {
    "meta": model(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, device="meta")),
        r"parameter '1\.weight' of Sequential is on the meta device.*to_empty",
    ),
    "meta buffer": model(
        lambda: nn.Sequential(linear(), nn.BatchNorm1d(2, affine=False, device="meta")),
        r"buffer '1\.running_mean' of Sequential is on the meta device",
    ),
    "lazy": model(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(2)),
        r"parameter '1\.weight' of Sequential has no shape yet: call the model once on a batch",
    ),
    "sparse embedding": model(
        lambda: nn.Sequential(nn.Embedding(4, 2, sparse=True)),
        "module '0' of Sequential makes sparse gradients: build it with sparse=False",
    ),
    "sparse bag": model(
        lambda: nn.Sequential(nn.Flatten(), nn.EmbeddingBag(4, 2, sparse=True)),
        "module '1' of Sequential makes sparse gradients: build it with sparse=False",
    ),
    "jit": model(
        lambda: nn.Sequential(torch.jit.script(linear())),
        "module '0' of Sequential is compiled by torch.jit",
    ),
    "hook on a gradient": model(with_hook, "'weight' of Linear has a hook .*argument"),
    "inference mode": model(made_in_inference_mode, "'weight' of Linear was made in inference"),
    "no parameters": model(nn.Flatten, "no parameter of Flatten requires", NothingToTrainError),
    "frozen": model(
        lambda: linear().requires_grad_(False), "no parameter of Linear req", NothingToTrainError
    ),
    "unused": model(with_unused_parameter, "depends on no trainable", NothingToTrainError),
    **{
        cut: model(
            lambda cut=cut: CutOff(cut), "the loss of CutOff depends on no", NothingToTrainError
        )
        for cut in ("detach", "no_grad")
    },
    "pixels": model(
        lambda: nn.Conv1d(4, 2, 1), r'shape \(3, 2, 5\).*Pass loss="sum"', input_shape=(BATCH, 4, 5)
    ),
    "another batch": model(
        lambda: with_function(lambda x: torch.cat([x, x])),
        r"shape \(6, 2\).*one label for each of 3",
    ),
    "classes": model(linear, r"shape \(3, 2\).*num_classes=7", classes=7),
    "a list": model(lambda: nn.Sequential(linear(), Applying(lambda y: [y])), "returns a list"),
    **{
        f"complex logits, {loss}": model(
            lambda: nn.Sequential(linear(), Applying(lambda y: y.to(torch.complex64))),
            "returns complex logits",
            loss=loss,
        )
        for loss in ("cross-entropy", "sum")
    },
}

# --- Types: on fake tensors torch lets them pass; no real step would ------------------------------


def whole_numbers(function):
    return model(lambda: with_function(function), r"of module '1', gets float32 and int")


TYPES = {
    **{
        f"{dtype} {place}": model(
            lambda layers=layers, dtype=dtype: nn.Sequential(*layers, nn.Linear(4, 2).to(dtype)),
            rf"module '{place}', gets .*{str(dtype).removeprefix('torch.')}",
            input_shape=(BATCH, 1, 4) if layers else (BATCH, 4),
        )
        for dtype in (torch.float16, torch.bfloat16, torch.float64)
        for place, layers in ((0, ()), (2, (nn.Conv1d(1, 1, 1), nn.Flatten())))
    },
    "matmul": whole_numbers(lambda x: x + x.detach() @ torch.ones(4, 4, dtype=torch.int64)),
    "linear": whole_numbers(lambda x: nn.functional.linear(x, torch.ones(4, 4, dtype=torch.int64))),
    "conv1d": whole_numbers(
        lambda x: nn.functional.conv1d(x[:, None], torch.ones(1, 1, 1, dtype=torch.int64))[:, 0]
    ),
    "mv": whole_numbers(lambda x: x + torch.ones(4, 4, dtype=torch.int32).mv(x[0])),
}

# --- Layouts --------------------------------------------------------------------------------------


def in_closure(matrix):
    return with_function(lambda x: (matrix @ x.T).T)


def in_buffer(matrix):
    made = with_function(lambda x: x)
    made[1].register_buffer("matrix", matrix)
    return made


def in_attribute(matrix):
    made = with_function(lambda x: x)
    made[1].matrix = {"one": matrix}
    return made


LAYOUTS = {
    f"{layout} {made.__name__}": model(
        lambda made=made, convert=convert: made(convert(torch.eye(4))), f"{where} .*{layout}"
    )
    for convert, layout in (
        (Tensor.to_sparse, "torch.sparse_coo"),
        (Tensor.to_sparse_csr, "torch.sparse_csr"),
        (Tensor.to_mkldnn, "torch._mkldnn"),
    )
    for made, where in (
        (in_closure, "forward pass of module '1',"),
        (in_buffer, r"buffer '1\.matrix' of"),
        (in_attribute, r"attribute '1\.matrix' of"),
    )
}

# --- Matrix work without a formula ----------------------------------------------------------------


@torch.library.custom_op("peft_regress_tests::product", mutates_args=())
def custom_product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@custom_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def gram(x):
    return x.T @ x + torch.eye(4)


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})
    return nn.Sequential(layer, linear())


UNCOUNTED = {
    **{
        operator: model(
            lambda function=function: with_function(function),
            f"{operator}, reached in the forward pass of module '1'",
            UncountedOperatorError,
        )
        for operator, function in {
            "peft_regress_tests.product": lambda x: x + custom_product(x.detach(), torch.eye(4)),
            "aten.linalg_inv_ex": lambda x: x @ torch.linalg.inv(gram(x)),
            "aten.linalg_cholesky_ex": lambda x: x @ torch.linalg.cholesky(gram(x)),
            "aten.linalg_qr": lambda x: x @ torch.linalg.qr(gram(x)).Q,
            "aten._linalg_eigh": lambda x: x + torch.linalg.eigvalsh(gram(x)),
            "aten._linalg_det": lambda x: x * torch.linalg.det(gram(x)),
            "aten.linalg_matrix_exp": lambda x: x @ torch.linalg.matrix_exp(gram(x)),
            "aten.linalg_lstsq": lambda x: torch.linalg.lstsq(gram(x), x.T).solution.T,
            "aten._cdist_forward": lambda x: x + torch.cdist(x, x).sum(),
            "aten._pdist_forward": lambda x: x + nn.functional.pdist(x).sum(),
            "aten.conv_tbc": lambda x: torch.conv_tbc(x[None], torch.ones(1, 4, 4), x[0])[0],
            "aten._to_sparse": lambda x: torch.sparse.mm(torch.eye(BATCH).to_sparse(), x),
            "aten._to_sparse_csr": lambda x: torch.eye(BATCH).to_sparse_csr() @ x,
            "aten._int_mm": lambda x: (
                x + torch._int_mm(*torch.ones(2, 32, 32, dtype=torch.int8).unbind()).sum()
            ),
        }.items()
    },
    "quantized": model(
        quantized, r"quantized\.linear_dynamic.* module '0\.0'", UncountedOperatorError
    ),
    **{
        option: model(
            linear,
            "foreach=False",
            UncountedOperatorError,
            optimizer=lambda m, option=option: torch.optim.AdamW(m.parameters(), **{option: True}),
        )
        for option in ("foreach", "fused")
    },
}

# --- Optimizers -----------------------------------------------------------------------------------

ORIGINAL = linear()
ORIGINAL_PARAMETERS = list(ORIGINAL.parameters())


def optimizer(message, make, error=InputError, of=linear):
    return Refused(of, error, message, {"optimizer": make})


OPTIMIZERS = {
    **{
        f"a {type(made).__name__}": optimizer(
            f"returned a {type(made).__name__}, not an optimizer", lambda _, made=made: made
        )
        for made in (None, [], "AdamW")
    },
    "LBFGS": optimizer(
        r"LBFGS takes a closure .* no single step to measure",
        lambda m: torch.optim.LBFGS(m.parameters()),
    ),
    # They are not the stand-ins that get gradients: it would train, and cost, nothing.
    "the original's parameters": optimizer(
        "AdamW has none of the trainable parameters of",
        lambda _: torch.optim.AdamW(ORIGINAL_PARAMETERS, foreach=False),
        NothingToTrainError,
        of=lambda: ORIGINAL,
    ),
    "frozen parameters": optimizer(
        "SGD has none of the trainable parameters of",
        lambda m: torch.optim.SGD(m[0].parameters(), foreach=False),
        NothingToTrainError,
        of=lambda: nn.Sequential(nn.Linear(4, 4).requires_grad_(False), linear()),
    ),
}

REFUSED = SETTINGS | MODELS | TYPES | LAYOUTS | UNCOUNTED | OPTIMIZERS


@BOTH
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused(name, fake):
    row = REFUSED[name]
    settings = dict(row.settings)
    shape = settings.pop("input_shape", (BATCH, 4))
    with pytest.raises(row.error, match=row.message):
        step(row.make(), shape, fake=fake, **settings)


@pytest.mark.parametrize(
    "error", [NothingToTrainError, UncountedOperatorError, UnprofilableModelError, NeedsValuesError]
)
def test_every_refusal_has_the_package_s_root(error):
    assert issubclass(error, PeftRegressError)


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
