"""Models, steps and optimizers as people hand them over: the right numbers, or what to do instead.

What is right is a closed form, a plain model's cost, or the same step on real tensors.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchvision
from network_zoo import Applying, adapted_as, sgd
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from peft_regress import registry
from peft_regress.cli.main import main
from peft_regress.cost import (
    NothingToTrainError,
    StepCost,
    UncountedOperatorError,
    UnprofilableModelError,
    profile_step,
)
from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

torch.set_num_threads(1)

BATCH = 3
BOTH = pytest.mark.parametrize("fake", [True, False])


def with_function(function: Callable[[Tensor], Tensor]) -> nn.Module:
    """Put a function of (batch, 4) between two layers, as module '1'."""
    return nn.Sequential(nn.Linear(4, 4), Applying(function), nn.Linear(4, 2))


def cost_of(model: nn.Module, *, fake: bool = True, **settings: Any) -> StepCost:
    defaults: dict[str, Any] = {"input_shape": (BATCH, 4), "num_classes": 2}
    return profile_step(model, sgd, fake=fake, **(defaults | settings))


LAYERS = 2 * BATCH * (4 * 4 + 4 * 2)


# --- Steps that need values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: x * x.sum().item(), "aten._local_scalar_dense"),
        (lambda x: x * x.tolist()[0][0], "aten._local_scalar_dense"),
        (lambda x: x if bool((x > -1e9).all()) else -x, "aten._local_scalar_dense"),
        (lambda x: x[(x[:, 0] < 1e9).nonzero().squeeze(1)], "aten.nonzero"),
        (lambda x: x[x[:, 0] < 1e9], "aten.nonzero"),
        (lambda x: x + x.detach().unique().sum(), "aten._unique2"),
        (lambda x: x * torch.equal(x, x), "aten.equal"),
        (lambda x: x + torch.from_numpy(x.detach().numpy()), "numpy"),
        (lambda x: x * float(np.asarray(x.detach()).sum()), "numpy"),
    ],
    ids=["item", "tolist", "if", "nonzero", "mask", "unique", "equal", "numpy", "asarray"],
)
def test_what_needs_values_is_named_with_its_place_and_runs_for_real(
    function: Callable[[Tensor], Tensor], operator: str
) -> None:
    model = with_function(function)
    with pytest.raises(UnprofilableModelError) as caught:
        cost_of(model)
    message = str(caught.value)
    assert message.startswith("Sequential cannot be measured on fake tensors: ")
    assert operator in message
    assert "the forward pass of module '1'" in message
    assert message.endswith("Pass fake=False to run the step for real.")
    assert cost_of(model, fake=False).forward_flops == LAYERS


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x > 0, x, -x),
        lambda x: x.masked_fill(x > 1, 0.0),
        lambda x: x.topk(4, 1)[0].sort(1)[0],
        lambda x: x.clamp(min=x.mean().detach()),
        lambda x: x[:, torch.tensor([3, 2, 1, 0])],
        lambda x: x * float("nan"),
    ],
    ids=["where", "masked_fill", "topk", "clamp", "gather", "nan"],
)
def test_what_only_computes_with_values_needs_none(function: Callable[[Tensor], Tensor]) -> None:
    model = with_function(function)
    assert cost_of(model) == cost_of(model, fake=False)
    assert cost_of(model).forward_flops == LAYERS


@pytest.mark.parametrize("optimizer", [torch.optim.Adafactor, torch.optim.ASGD])
def test_an_optimizer_that_needs_values_is_named_as_such(optimizer: Any) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return optimizer(model.parameters(), foreach=False)

    def measure(*, fake: bool) -> StepCost:
        return profile_step(nn.Linear(4, 2), make, input_shape=(1, 4), num_classes=2, fake=fake)

    with pytest.raises(UnprofilableModelError, match="reached in the update of the model itself"):
        measure(fake=True)
    assert measure(fake=False).optimizer_flops > 0


# --- Matrix work without a formula ----------------------------------------------------------------


@torch.library.custom_op("peft_regress_tests::product", mutates_args=())
def custom_product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@custom_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def gram(x: Tensor) -> Tensor:
    return x.T @ x + torch.eye(4)


@BOTH
@pytest.mark.parametrize(
    ("operator", "function"),
    [
        ("peft_regress_tests.product", lambda x: x + custom_product(x.detach(), torch.eye(4))),
        ("aten.linalg_inv_ex", lambda x: x @ torch.linalg.inv(gram(x))),
        ("aten.linalg_cholesky_ex", lambda x: x @ torch.linalg.cholesky(gram(x))),
        ("aten.linalg_qr", lambda x: x @ torch.linalg.qr(gram(x)).Q),
        ("aten._linalg_eigh", lambda x: x + torch.linalg.eigvalsh(gram(x))),
        ("aten._linalg_det", lambda x: x * torch.linalg.det(gram(x))),
        ("aten.linalg_matrix_exp", lambda x: x @ torch.linalg.matrix_exp(gram(x))),
        ("aten.linalg_lstsq", lambda x: torch.linalg.lstsq(gram(x), x.T).solution.T),
        ("aten._cdist_forward", lambda x: x + torch.cdist(x, x).sum()),
        ("aten._pdist_forward", lambda x: x + nn.functional.pdist(x).sum()),
        ("aten.conv_tbc", lambda x: torch.conv_tbc(x[None], torch.ones(1, 4, 4), x[0])[0]),
        ("aten._to_sparse", lambda x: torch.sparse.mm(torch.eye(BATCH).to_sparse(), x)),
        ("aten._to_sparse_csr", lambda x: torch.eye(BATCH).to_sparse_csr() @ x),
        (
            "aten._int_mm",
            lambda x: x + torch._int_mm(*torch.ones(2, 32, 32, dtype=torch.int8).unbind()).sum(),
        ),
    ],
)
def test_matrix_work_that_has_no_formula_is_named_and_never_nothing(
    operator: str, function: Callable[[Tensor], Tensor], fake: bool
) -> None:
    with pytest.raises(UncountedOperatorError) as caught:
        cost_of(with_function(function), fake=fake)
    assert caught.value.operator == operator
    assert caught.value.module == "1"
    assert f"{operator}, reached in the forward pass of module '1'" in str(caught.value)


@BOTH
def test_a_quantized_layer_is_named(fake: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Linear(4, 4)), {nn.Linear}
        )
    with pytest.raises(UncountedOperatorError, match=r"quantized\.linear_dynamic.* module '0\.0'"):
        cost_of(nn.Sequential(quantized, nn.Linear(4, 2)), fake=fake)


class LastOf(nn.Module):
    """A recurrent network of (batch, tokens, 4), and a head on its last state."""

    def __init__(self, kind: type[nn.RNNBase], width: int) -> None:
        super().__init__()
        self.recurrent = kind(4, width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return y


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3)])
def test_a_recurrent_layer_of_single_products_is_its_closed_form(
    kind: type[nn.RNNBase], gates: int
) -> None:
    tokens, width = 6, 5
    cost = cost_of(LastOf(kind, width), input_shape=(BATCH, tokens, 4))
    from_input = 2 * BATCH * tokens * 4 * gates * width
    from_state = 2 * BATCH * tokens * width * gates * width
    head = 2 * BATCH * width * 2
    assert cost.forward_flops == from_input + from_state + head
    # No gradient of the input, nor of the first state.
    first_state = from_state // tokens
    assert cost.backward_flops == from_input + 2 * from_state - first_state + 2 * head


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: torch.einsum("ni,mi,mj->nj", x, x, x), 2 * 2 * BATCH * BATCH * 4),
        (lambda x: torch.tensordot(x, torch.eye(4), dims=1), 2 * BATCH * 4 * 4),
        (lambda x: x @ torch.linalg.matrix_power(torch.eye(4), 4), 2 * (BATCH + 2 * 4) * 4 * 4),
        (lambda x: x + torch.linalg.multi_dot([x[0], x.T, x]), 2 * 2 * BATCH * 4),
        (lambda x: x + torch.outer(x[0], x[0])[0], 0),
        (lambda x: torch.fft.fft(x).real, 0),
    ],
    ids=["einsum", "tensordot", "matrix_power", "multi_dot", "outer", "fft"],
)
@BOTH
def test_what_is_made_of_products_is_counted_as_such(
    function: Callable[[Tensor], Tensor], flops: int, fake: bool
) -> None:
    """An outer product is a broadcast multiplication, and an FFT no matrix product."""
    assert cost_of(with_function(function), fake=fake).forward_flops == LAYERS + flops


def test_the_products_of_an_autograd_function_of_one_s_own_are_counted() -> None:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            return x @ torch.eye(4)

        @staticmethod
        def backward(_ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad @ torch.eye(4)

    model = with_function(Product.apply)
    own = 2 * BATCH * 4 * 4
    first, last = own, 2 * BATCH * 4 * 2
    for fake in (True, False):
        cost = cost_of(model, fake=fake)
        assert cost.forward_flops == first + own + last
        assert cost.backward_flops == first + own + 2 * last
        assert {s.flops for s in cost.flops_by_site if s.module == "1"} == {own}


# --- Shapes ---------------------------------------------------------------------------------------


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.norm(self.conv(x)).relu_().mean((2, 3)))
        return y


@pytest.mark.parametrize(
    "shape", [(2, 3, 1, 1), (2, 3, 7, 3), (2, 3, 3, 7), (5, 3, 13, 11), (1, 3, 4, 1), (1, 3, 2, 2)]
)
def test_odd_and_tiny_images_are_the_closed_form_and_the_real_step(shape: tuple[int, ...]) -> None:
    model = Convolutional().eval()
    cost = cost_of(model, input_shape=shape)
    assert cost == cost_of(model, input_shape=shape, fake=False)
    batch, _, height, width = shape
    conv = 2 * batch * ((height + 1) // 2) * ((width + 1) // 2) * 4 * 3 * 9
    head = 2 * batch * 4 * 2
    assert cost.forward_flops == conv + head
    assert cost.backward_flops == conv + 2 * head


def test_a_deep_network_on_one_pixel() -> None:
    """Every layer works on one position: as many products as there are weights."""
    model = torchvision.models.resnet18(num_classes=2).eval()
    cost = cost_of(model, input_shape=(1, 3, 1, 1))
    weights = [p.numel() for p in model.parameters() if p.ndim > 1]
    assert cost.forward_flops == 2 * sum(weights)
    assert cost.backward_flops == 2 * 2 * sum(weights) - 2 * model.conv1.weight.numel()


@pytest.mark.parametrize("train", [True, False])
def test_an_empty_batch_takes_no_products_and_the_memory_of_the_real_step(train: bool) -> None:
    model = Convolutional().train(train)
    cost = cost_of(model, input_shape=(0, 3, 8, 8))
    assert cost == cost_of(model, input_shape=(0, 3, 8, 8), fake=False)
    assert cost.forward_flops == cost.backward_flops == 0
    assert cost.peak_param_bytes == 4 * sum(p.numel() for p in model.parameters())


def test_an_image_too_small_for_a_network_is_its_own_error_and_nothing_else() -> None:
    """Fake tensors would log a traceback of it besides."""
    logged: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record)

    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(handler := Keep())
    try:
        with pytest.raises(RuntimeError, match="Output size is too small"):
            cost_of(torchvision.models.squeezenet1_1(num_classes=2), input_shape=(1, 3, 8, 8))
        assert not logged
        log.error("as before")
        assert logged
    finally:
        log.removeHandler(handler)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_shape": (-1, 4)}, r"input_shape \(-1, 4\) is not the shape of a batch"),
        ({"input_shape": ()}, r"input_shape \(\) is not the shape of a batch"),
        ({"input_shape": (1.5, 4)}, r"input_shape \(1.5, 4\) is not a tuple of whole numbers"),
        ({"input_shape": (True, 4)}, r"input_shape \(True, 4\) is not a tuple of whole numbers"),
        ({"input_shape": ("3", 4)}, r"input_shape \('3', 4\) is not a tuple of whole numbers"),
        ({"input_shape": 4}, "input_shape 4 is not a tuple of whole numbers"),
        ({"input_shape": (10**30, 4)}, r"input_shape \(10+, 4\) is not the shape of a batch"),
        ({"num_classes": 0}, "num_classes must be 1 or more, not 0"),
        ({"num_classes": 2.0}, "num_classes must be 1 or more, not 2.0"),
        ({"loss": "cross_entropy"}, "one of 'cross-entropy', 'sum', not 'cross_entropy'"),
        ({"loss": None}, "one of 'cross-entropy', 'sum', not None"),
        ({"dtype": torch.int64}, "floating-point type, not torch.int64"),
        ({"dtype": torch.bool}, "floating-point type, not torch.bool"),
    ],
)
@BOTH
def test_a_step_that_no_model_could_take_is_refused(
    settings: dict[str, Any], message: str, fake: bool
) -> None:
    with pytest.raises(InputError, match=message):
        cost_of(nn.Linear(4, 2), fake=fake, **settings)


def test_a_rank_above_a_layer_s_sides_is_taken_as_it_is() -> None:
    """peft allows it: the factors are larger than the layer."""
    rank = 64
    model = registry.get("method", "lora").adapt(
        Convolutional(), heads=("head",), rank=rank, seed=0
    )
    shape = (2, 3, 8, 8)
    cost = cost_of(model, input_shape=shape)
    assert cost == cost_of(model, input_shape=shape, fake=False)
    positions = 2 * 4 * 4
    factors = 2 * positions * rank * (3 * 9 + 4)
    assert cost.forward_flops == 2 * positions * 4 * 3 * 9 + factors + 2 * 2 * 4 * 2


def test_a_galore_rank_above_a_matrix_s_sides_is_the_real_step() -> None:
    model = adapted_as("squeezenet1_1", "galore")
    galore = registry.get("method", "galore")
    costs = [
        profile_step(
            model,
            lambda stand_in: galore.make_optimizer(stand_in, rank=100_000),
            input_shape=(1, 3, 32, 32),
            num_classes=10,
            fake=fake,
        )
        for fake in (True, False)
    ]
    assert costs[0] == costs[1]


# --- Numbers of other types -----------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype_than_its_input_is_refused(dtype: torch.dtype, fake: bool) -> None:
    """On fake tensors torch lets it pass; no real step would."""
    name = str(dtype).removeprefix("torch.")
    model = nn.Sequential(nn.Linear(4, 2).to(dtype))
    with pytest.raises(UnprofilableModelError, match=rf"module '0', gets .*{name}"):
        cost_of(model, fake=fake)
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(4, 2).to(dtype))
    with pytest.raises(UnprofilableModelError, match=rf"module '2', gets .*{name}"):
        cost_of(model, input_shape=(BATCH, 1, 4), fake=fake)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_a_model_with_an_input_of_its_dtype_is_the_real_step(dtype: torch.dtype) -> None:
    real_part: nn.Module = Applying(torch.abs) if dtype.is_complex else nn.Identity()
    model = nn.Sequential(nn.Linear(4, 2, bias=False).to(dtype), real_part)
    cost = cost_of(model, dtype=dtype)
    assert cost == cost_of(model, dtype=dtype, fake=False)
    assert cost.forward_flops == (8 if dtype.is_complex else 2) * BATCH * 4 * 2
    assert cost.peak_param_bytes == cost.peak_grad_bytes == 4 * 2 * dtype.itemsize


@BOTH
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x.detach() @ torch.ones(4, 4, dtype=torch.int64),
        lambda x: nn.functional.linear(x, torch.ones(4, 4, dtype=torch.int64)),
        lambda x: nn.functional.conv1d(x[:, None], torch.ones(1, 1, 1, dtype=torch.int64))[:, 0],
        lambda x: x + torch.ones(4, 4, dtype=torch.int32).mv(x[0]),
    ],
    ids=["matmul", "linear", "conv1d", "mv"],
)
def test_a_product_with_whole_numbers_is_refused(
    function: Callable[[Tensor], Tensor], fake: bool
) -> None:
    """On fake tensors torch lets it pass; no real step would."""
    with pytest.raises(UnprofilableModelError, match=r"of module '1', gets float32 and int"):
        cost_of(with_function(function), fake=fake)


def test_an_outer_product_that_promotes_is_the_real_step() -> None:
    model = with_function(
        lambda x: x + torch.addr(torch.zeros(4, 4), x[0].double(), x[1]).detach().float().sum()
    )
    cost = cost_of(model)
    assert cost == cost_of(model, fake=False)
    assert cost.forward_flops == LAYERS + 2 * 4 * 4


def test_autocast_counts_what_it_casts() -> None:
    plain = cost_of(nn.Linear(4, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fake, real = cost_of(nn.Linear(4, 2)), cost_of(nn.Linear(4, 2), fake=False)
    assert fake == real
    assert (fake.forward_flops, fake.backward_flops) == (plain.forward_flops, plain.backward_flops)
    assert fake.aten_ops > plain.aten_ops


@BOTH
def test_channels_last_costs_the_same(fake: bool) -> None:
    model = Convolutional()
    contiguous = cost_of(model, input_shape=(2, 3, 8, 8))
    model = model.to(memory_format=torch.channels_last)
    cost = cost_of(model, input_shape=(2, 3, 8, 8), fake=fake)
    assert dataclasses.replace(cost, aten_ops=contiguous.aten_ops) == contiguous


# --- Models that are not plain --------------------------------------------------------------------


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@BOTH
@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, torch.fx.symbolic_trace])
def test_a_wrapped_model_costs_what_it_wraps(wrap: Any, fake: bool) -> None:
    """A compiled one runs as it was written: what a compiler fuses is not measured."""
    plain, wrapped = (
        cost_of(model, input_shape=(2, 3, 8, 8), fake=fake)
        for model in (Convolutional(), wrap(Convolutional()))
    )
    for field in dataclasses.fields(StepCost):
        if field.type in {"int", int}:
            assert getattr(wrapped, field.name) == getattr(plain, field.name), field.name


@BOTH
def test_hooks_are_run_and_counted_as_what_they_do(fake: bool) -> None:
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
def test_hooks_on_accumulated_gradients_are_the_optimizer_s(fake: bool) -> None:
    """They are made with the optimizer, on the stand-ins; those on the model are refused."""
    model = nn.Linear(64, 2)

    def free(parameter: Tensor) -> None:
        parameter.grad = None

    def make(stand_in: nn.Module) -> torch.optim.Optimizer:
        for parameter in stand_in.parameters():
            parameter.register_post_accumulate_grad_hook(free)
        return sgd(stand_in)

    cost = profile_step(model, make, input_shape=(BATCH, 64), num_classes=2, fake=fake)
    assert cost.peak_grad_bytes == 4 * 64 * 2  # one of them at a time
    assert cost.optimizer_flops == 0
    model.weight.register_post_accumulate_grad_hook(free)
    with pytest.raises(UnprofilableModelError, match=r"'weight' of Linear has a hook .*argument"):
        cost_of(model, input_shape=(BATCH, 64), fake=fake)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, device="meta")),
            r"parameter '1\.weight' of Sequential is on the meta device.*to_empty",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False, device="meta")),
            r"buffer '1\.running_mean' of Sequential is on the meta device",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(2)),
            r"parameter '1\.weight' of Sequential has no shape yet: call the model once on a batch",
        ),
        (
            lambda: nn.Sequential(nn.Embedding(4, 2, sparse=True)),
            "module '0' of Sequential makes sparse gradients: build it with sparse=False",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.EmbeddingBag(4, 2, sparse=True)),
            "module '1' of Sequential makes sparse gradients: build it with sparse=False",
        ),
        (
            lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 2))),
            "module '0' of Sequential is compiled by torch.jit",
        ),
    ],
    ids=["meta", "meta-buffer", "lazy", "embedding", "bag", "jit"],
)
@BOTH
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_model_that_cannot_take_a_step_is_refused_with_the_place(
    make: Callable[[], nn.Module], message: str, fake: bool
) -> None:
    with pytest.raises(UnprofilableModelError, match=message):
        cost_of(make(), fake=fake)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_model_that_has_seen_a_batch_is_a_plain_one() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    model(torch.zeros(1, 4))
    assert cost_of(model) == cost_of(nn.Sequential(nn.Linear(4, 2)))


@BOTH
def test_the_caller_s_grad_mode_does_not_matter(fake: bool) -> None:
    model = nn.Linear(4, 2)
    cost = cost_of(model)
    with torch.no_grad():
        assert cost_of(model, fake=fake) == cost
    with torch.inference_mode():
        assert cost_of(model, fake=fake) == cost
        made_inside = nn.Linear(4, 2)
    with pytest.raises(UnprofilableModelError, match="'weight' of Linear was made in inference"):
        cost_of(made_inside, fake=fake)


def test_a_model_without_parameters_has_nothing_to_train() -> None:
    with pytest.raises(NothingToTrainError, match="no parameter of Flatten requires"):
        cost_of(nn.Flatten())


@pytest.mark.parametrize("cut", ["detach", "no_grad"])
def test_an_output_cut_off_from_the_parameters_is_refused(cut: str) -> None:
    class CutOff(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if cut == "detach":
                return super().forward(x).detach()
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(NothingToTrainError, match="the loss of CutOff depends on no trainable"):
        cost_of(CutOff(4, 2))


def test_an_output_for_each_pixel_is_summed_or_refused() -> None:
    model = nn.Conv1d(4, 2, 1)
    with pytest.raises(UnprofilableModelError, match=r'shape \(3, 2, 5\).*Pass loss="sum"'):
        cost_of(model, input_shape=(BATCH, 4, 5))
    cost = cost_of(model, input_shape=(BATCH, 4, 5), loss="sum")
    assert cost.forward_flops == 2 * BATCH * 5 * 4 * 2


@BOTH
@pytest.mark.parametrize("loss", ["cross-entropy", "sum"])
def test_complex_logits_are_refused(loss: str, fake: bool) -> None:
    model = with_function(lambda x: x)
    model.append(Applying(lambda x: x.to(torch.complex64)))
    with pytest.raises(UnprofilableModelError, match="returns complex logits"):
        cost_of(model, fake=fake, loss=loss)


def test_an_output_of_another_batch_is_refused() -> None:
    model = with_function(lambda x: torch.cat([x, x]))
    with pytest.raises(UnprofilableModelError, match=r"shape \(6, 2\).*one label for each of 3"):
        cost_of(model)


# --- Optimizers -----------------------------------------------------------------------------------


def linear_cost(make_optimizer: Callable[[nn.Module], Any], *, fake: bool = True) -> StepCost:
    return profile_step(
        nn.Linear(4, 2), make_optimizer, input_shape=(BATCH, 4), num_classes=2, fake=fake
    )


@BOTH
def test_an_optimizer_over_the_original_s_parameters_is_refused(fake: bool) -> None:
    """They are not the stand-ins that get gradients: it would train, and cost, nothing."""
    model = nn.Linear(4, 2)
    original = list(model.parameters())
    with pytest.raises(NothingToTrainError, match="AdamW has none of the trainable parameters of"):
        profile_step(
            model,
            lambda _: torch.optim.AdamW(original, foreach=False),
            input_shape=(BATCH, 4),
            num_classes=2,
            fake=fake,
        )


def test_an_optimizer_over_frozen_parameters_alone_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))
    with pytest.raises(NothingToTrainError, match="SGD has none of the trainable parameters of"):
        profile_step(
            model,
            lambda m: torch.optim.SGD(m[0].parameters(), foreach=False),
            input_shape=(BATCH, 4),
            num_classes=2,
        )


@BOTH
def test_optimizers_that_step_in_the_backward_pass_cost_what_one_after_it_does(fake: bool) -> None:
    """One a parameter, from the hook on its gradient, which is freed at once."""
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2))

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, foreach=False)

    def within(stand_in: nn.Module) -> torch.optim.Optimizer:
        optimizers = {p: adamw([p]) for p in stand_in.parameters()}

        def update(parameter: Tensor) -> None:
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        for parameter in optimizers:
            parameter.register_post_accumulate_grad_hook(update)
        return sgd(stand_in)

    def cost(make: Callable[[nn.Module], torch.optim.Optimizer]) -> StepCost:
        return profile_step(model, make, input_shape=(BATCH, 4), num_classes=2, fake=fake)

    found, after = cost(within), cost(lambda stand_in: adamw(stand_in.parameters()))
    same = ("forward_flops", "backward_flops", "optimizer_flops", "optimizer_state_bytes")
    for name in (*same, "peak_optimizer_bytes", "peak_temp_bytes"):
        assert getattr(found, name) == getattr(after, name), name
    assert {s.module for s in found.flops_by_site if s.phase == "optimizer"} == {"", "0", "1"}
    assert found.peak_grad_bytes == 4 * 4 * 64  # the largest parameter's
    assert not _global_optimizer_pre_hooks


@pytest.mark.parametrize("made", [None, [], "AdamW"])
def test_what_is_no_optimizer_is_refused(made: object) -> None:
    with pytest.raises(InputError, match=f"returned a {type(made).__name__}, not an optimizer"):
        linear_cost(lambda _: made)


@BOTH
def test_an_optimizer_that_runs_the_model_itself_is_refused(fake: bool) -> None:
    with pytest.raises(InputError, match=r"LBFGS takes a closure .* no single step to measure"):
        linear_cost(lambda m: torch.optim.LBFGS(m.parameters()), fake=fake)


@BOTH
def test_an_optimizer_may_leave_parameters_out_and_bring_others(fake: bool) -> None:
    """All that require a gradient get one; only the optimizer's own are updated."""
    others = nn.Parameter(torch.ones(1000))

    def make(model: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(model, nn.Linear)
        return torch.optim.SGD([model.weight, others], lr=0.1, momentum=0.9, foreach=False)

    cost = linear_cost(make, fake=fake)
    assert cost.peak_grad_bytes == 4 * (8 + 2)
    assert cost.optimizer_state_bytes == 4 * 8
    assert cost.optimizer_flops == 3 * 8


def test_an_optimizer_of_many_tensors_at_once_is_one_tensor_at_a_time_on_cpus() -> None:
    """Where foreach is left open, torch takes it for CUDA tensors alone."""
    default = linear_cost(lambda m: torch.optim.AdamW(m.parameters()))
    assert default == linear_cost(lambda m: torch.optim.AdamW(m.parameters(), foreach=False))


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        ("Adam", 2),
        ("AdamW", 2),
        ("NAdam", 2),
        ("RAdam", 2),
        ("Adamax", 2),
        ("Adadelta", 2),
        ("Adagrad", 1),
        ("RMSprop", 1),
        ("Rprop", 2),
    ],
)
def test_torch_s_optimizers_keep_as_many_copies_as_they_are_known_to(
    optimizer: str, states: int
) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(torch.optim, optimizer)(
            model.parameters(), lr=0.01, foreach=False
        )
        return made

    cost = linear_cost(make)
    assert cost == linear_cost(make, fake=False)
    counters = cost.optimizer_state_bytes - 4 * states * (8 + 2)
    # A step count for each parameter, and NAdam's running product of momenta.
    assert counters in {4 * 2, 4 * 2 * 2}
    assert (counters == 4 * 2 * 2) == (optimizer == "NAdam")


# --- The command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("squeezenet1_1", "--resolution", "8"), "Output size is too small"),
        (("vit_b_16", "--resolution", "64"), "Wrong image height! Expected 224 but got 64!"),
        (("resnet18", "--resolution", "1", "--bn", "train"), "more than 1 value per channel"),
    ],
)
def test_a_step_that_a_network_cannot_take_is_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["cost", "--method", "head", "--architecture", *arguments])
    out, err = capfd.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
