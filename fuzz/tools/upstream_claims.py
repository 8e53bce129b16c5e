"""What this project claims of a convolution or a linear layer with an adapter of peft, and whether.

`measured` takes a row of upstream's tests like a fine-tuning of a user, and checks the claims:
forward FLOPs by the formulas of docs/methods.md and docs/findings, the shapes of what trains by the
catalogue's rules, and the invariants. `KNOWN` says why a claim does not hold, where that is known.

In the formulas a layer has o outputs, i inputs of one group, g groups, k elements of the kernel,
n = i k, and p places of its output, over all items of a batch.
"""

from __future__ import annotations

import collections
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from peft_regress.catalogue.methods import adapter_shapes as rules
from peft_regress.errors import InputError
from peft_regress.fine_tune import FineTune
from peft_regress.runs.ledger import check_sums, rows_of
from peft_regress.runs.schema import Record

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]
_STEPS: Final = 3
_INPUT: Final = (9, 10)
"""What upstream gives to each network, which brings it into the form that it needs."""
_PREFIX: Final = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of upstream's test cases.

    Attributes:
        name: The label of the row; upstream uses some of them twice.
        network: The id of the network.
        config: The name of the class of its configuration.
        settings: The arguments of that class.

    """

    name: str
    network: str
    config: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer, its sizes, and at how many places it computes its outputs."""

    module: nn.Module
    outputs: int
    inputs: int
    """Of one group."""
    groups: int
    kernel: tuple[int, ...]
    places: int

    @classmethod
    def of(cls, module: Any, *, places: int) -> Layer:
        """Return the sizes of a linear layer or a convolution."""
        outputs, inputs, *kernel = module.weight.shape
        return cls(
            module=module,
            outputs=outputs,
            inputs=inputs,
            groups=getattr(module, "groups", 1),
            kernel=tuple(kernel),
            places=places,
        )

    @property
    def is_convolution(self) -> bool:
        """Return whether it has a kernel."""
        return bool(self.kernel)

    @property
    def n(self) -> int:
        """Return how many inputs one output has."""
        return self.inputs * prod(self.kernel)

    @property
    def flops(self) -> int:
        """Return the FLOPs of the layer without an adapter."""
        return 2 * self.outputs * self.n * self.places


# --- Forward FLOPs --------------------------------------------------------------------------------
# Of an adapter beside the layer's own, by the class of its configuration.


def claimed_flops(layer: Layer, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the forward FLOPs that an adapter adds to a layer; None without a formula.

    shapes: of what trains in the layer, which LoKr's split of the weight is read from.
    """
    formula = _FLOPS.get(type(config).__name__)
    return None if formula is None else formula(layer, config, shapes)


def _lora(layer: Layer, config: Any, _: Any) -> int:
    # A is a convolution of all g i inputs, B a pointwise one; DoRA multiplies them as matrices.
    rank: int = config.r
    thin = layer.groups * layer.n + layer.outputs // layer.groups
    product = 2 * layer.outputs * rank * layer.n if config.use_dora else 0
    return 2 * rank * thin * layer.places + product


def _adalora(layer: Layer, config: Any, _: Any) -> int:
    rank: int = config.init_r
    if not layer.is_convolution:
        return 2 * rank * (layer.n + layer.outputs) * layer.places
    return layer.flops + 2 * layer.outputs * rank * layer.n


def _hira(layer: Layer, config: Any, _: Any) -> int:
    rank: int = config.r
    return layer.flops + 2 * layer.outputs * rank * layer.n


def _loha(layer: Layer, config: Any, _: Any) -> int:
    # Two factors of low rank; by Tucker's decomposition each has a core, which is multiplied by the
    # inputs first.
    rank: int = config.r
    if config.use_effective_conv2d and prod(layer.kernel) > 1:
        kernel = prod(layer.kernel)
        core = 2 * rank * rank * kernel * layer.inputs
        return layer.flops + 2 * (core + 2 * rank * layer.outputs * layer.n)
    return layer.flops + 4 * layer.outputs * rank * layer.n


def _lokr(layer: Layer, _config: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    # The Kronecker product is elementwise; a core is multiplied by the outputs first.
    named = {name.partition(".")[0]: shape for name, shape in shapes.items()}
    products = 0
    if "lokr_w1_a" in named:
        products += 2 * prod(named["lokr_w1_a"]) * named["lokr_w1_b"][1]
    if "lokr_t2" in named:
        core, inputs, outputs = named["lokr_t2"], named["lokr_w2_b"][1], named["lokr_w2_a"][1]
        products += 2 * prod(core) * outputs + 2 * prod(core) // core[0] * inputs * outputs
    elif "lokr_w2_a" in named:
        products += 2 * prod(named["lokr_w2_a"]) * named["lokr_w2_b"][1]
    return layer.flops + products


def _ia3(_layer: Layer, _config: Any, _: Any) -> int:
    return 0


def _hra(layer: Layer, config: Any, _: Any) -> int:
    # Each reflection is a full matrix; their product is multiplied by an identity.
    rank: int = config.r
    n = layer.n
    return 2 * n**3 + 4 * rank * n**2 + 2 * layer.outputs * n**2


def _boft(layer: Layer, _config: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    # A permutation from both sides for each factor, an identity, the weight; Cayley's form by LU.
    n = layer.n
    factors, blocks, size, _ = next(s for name, s in shapes.items() if name.startswith("boft_R"))
    square, on_weight = 2 * n**3, 2 * layer.outputs * n**2
    lu = (4 * size**3 - 3 * size**2 - size) // 6
    cayley = factors * blocks * (lu + size * (2 * size**2 - size))
    return 3 * factors * square + on_weight + cayley


def _oft(layer: Layer, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    # Patches of the input are rotated by blocks; Cayley's form by a series, a product for a term.
    terms: int = config.num_cayley_neumann_terms
    if not config.use_cayley_neumann or terms < 4:
        return None
    blocks, elements = next(s for name, s in shapes.items() if name.startswith("oft_R"))
    size: int = round((1 + (1 + 8 * elements) ** 0.5) / 2)
    series = (terms - 2) * blocks * 2 * size**3
    return 2 * layer.places * layer.n * size + series


_FLOPS: Final[dict[str, Callable[[Layer, Any, Mapping[str, tuple[int, ...]]], int | None]]] = {
    "AdaLoraConfig": _adalora,
    "BOFTConfig": _boft,
    "HRAConfig": _hra,
    "HiraConfig": _hira,
    "IA3Config": _ia3,
    "LoHaConfig": _loha,
    "LoKrConfig": _lokr,
    "LoraConfig": _lora,
    "OFTConfig": _oft,
}


# --- Shapes ---------------------------------------------------------------------------------------


def claimed_shapes(layer: Layer, config: Any) -> Shapes | None:  # noqa: PLR0911  (one a method)
    """Return names and shapes of what trains in a layer by the rules; None without a rule."""
    module = layer.module
    match type(config).__name__:
        case "LoraConfig" if not config.lora_bias:
            found = rules.dora_shapes if config.use_dora else rules.lora_shapes
            return found(module, config.r)
        case "AdaLoraConfig":
            return rules.adalora_shapes(module, config.init_r)
        case "HiraConfig":
            return rules.hira_shapes(module, config.r)
        case "LoHaConfig":
            found = rules.loha_tucker_shapes if config.use_effective_conv2d else rules.loha_shapes
            return found(module, config.r)
        case "LoKrConfig" if not config.decompose_both and config.decompose_factor == -1:
            return rules.lokr_shapes(module, config.r, tucker=config.use_effective_conv2d)
        case "IA3Config" if not config.feedforward_modules:
            return rules.ia3_shapes(module, 0)
        case "HRAConfig":
            return rules.hra_shapes(module, config.r)
    return None


# --- What is known --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Known:
    """A cause that is known: of which rows, what it breaks, and where to read of it."""

    configs: tuple[str, ...]
    what: str
    reason: str
    settings: tuple[str, ...] = ()
    """Settings that must be on."""
    networks: str = "*"


KNOWN: Final = (
    Known(
        configs=("BOFTConfig", "HRAConfig"),
        what="channels_last_kept",
        reason="raises on weights that are channels last: "
        "[finding](findings/peft-channels-last.md)",
    ),
    Known(
        configs=("BOFTConfig",),
        what="refused_merge_keeps_base",
        reason="merges NaN in spite of `safe_merge`: [finding](findings/peft-boft-safe-merge.md)",
    ),
    Known(
        configs=("LoraConfig",),
        settings=("use_dora",),
        what="channels_last_kept",
        reason="DoRA raises on weights that are channels last: "
        "[finding](findings/peft-channels-last.md)",
    ),
    Known(
        configs=("LoraConfig",),
        settings=("use_dora",),
        what="forward FLOPs",
        reason="on a linear layer DoRA multiplies an identity of all inputs by A to get BA: "
        "2 r n^2 FLOPs too many, on purpose, so that it works under FSDP (peft says so in "
        "`tuners/lora/dora.py`); on convolutions it does not",
    ),
    Known(
        configs=("LoHaConfig", "LoKrConfig"),
        settings=("use_effective_conv2d",),
        networks="Conv1d*",
        what="shapes",
        reason="peft gives the core of a one-dimensional kernel a second dimension of 1: another "
        "shape, the same function",
    ),
)


def explained(row: Row, what: str) -> str | None:
    """Return why a claim does not hold for a row; None if nobody knows."""
    for known in KNOWN:
        if (
            row.config in known.configs
            and what == known.what
            and fnmatchcase(row.network, known.networks)
            and all(row.settings.get(name) for name in known.settings)
        ):
            return known.reason
    return None


# --- Measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the claims say of one row.

    Attributes:
        ratio: Forward FLOPs relative to those of the network without an adapter; None if there is
            no step to measure.
        held: The claims that hold.
        broken: What was found where a claim does not hold.
        unclaimed: What the project claims nothing about, for such settings.

    """

    row: Row
    record: Record
    ratio: float | None = None
    held: tuple[str, ...] = ()
    broken: Mapping[str, str]
    unclaimed: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, str | None]:
        """Return why each claim that does not hold does not; None if nobody knows."""
        return {what: explained(self.row, what) for what in self.broken}


def fine_tune_of(row: Row, network: type[nn.Module], *, number: int) -> FineTune:
    """Return a row as a fine-tuning: upstream's network and adapter, and three steps.

    number: of the row, which names it, since upstream uses some labels twice.
    """
    import peft
    import torch

    def model() -> nn.Module:
        return network()

    def data() -> tuple[tuple[Tensor], tuple[Tensor]]:
        # One item is a whole input: the networks make a batch of their own of it.
        inputs = torch.randn(1, *_INPUT, generator=torch.Generator().manual_seed(0))
        return (inputs,), (inputs,)

    def loss(adapted: nn.Module, batch: tuple[Tensor]) -> Tensor:
        outputs = adapted(batch[0][0])
        return torch.nn.functional.nll_loss(outputs, torch.arange(len(outputs)) % 2)

    def score(adapted: nn.Module, batches: Sequence[Any]) -> float:
        return -float(loss(adapted, batches[0]))

    return FineTune(
        f"upstream/{row.config.removesuffix('Config').lower()}/row-{number}",
        model=model,
        data=data,
        adapter=getattr(peft, row.config)(**row.settings),
        loss=loss,
        score=score,
        steps=_STEPS,
        batch=1,
        seeds=1,
    )


def layers_of(fine_tune: FineTune) -> dict[str, Layer]:
    """Return the linear layers and convolutions of a network by name, in the order of computing."""
    import torch
    from torch import nn

    network = fine_tune.model()
    (inputs,), _ = fine_tune.data()
    found: dict[str, Layer] = {}

    def see(name: str) -> Any:
        def hook(module: Any, _: Any, output: Tensor) -> None:
            found[name] = Layer.of(module, places=output.numel() // len(module.weight))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(see(name))
    with torch.no_grad():
        network(inputs[0])
    return found


def measured(row: Row, network: type[nn.Module], *, number: int) -> Result:
    """Measure a row, and compare what it costs and does with the claims.

    Raises `InputError` for settings that this release of peft does not have.
    """
    from peft_regress.measure import ProfileCache, Recipe, measure

    try:
        fine_tune = fine_tune_of(row, network, number=number)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{row.name!r}: the installed peft has no such configuration: {error}"
        ) from error
    with tempfile.TemporaryDirectory() as none, _products_in_order():
        recipe = Recipe.of(fine_tune, Path(none))
        record = measure(recipe, profiles=ProfileCache(), timed=False).record
    if record.status != "ok":
        return Result(row=row, record=record, broken={record.status: record.status_text})
    claims: dict[str, str | None] = {}
    notes = {} if record.invariant_notes is UNSET else record.invariant_notes
    for name, holds in record.invariants.items():
        if holds is not None:
            claims[name] = "" if holds else notes.get(name, "it is false")
    layers = layers_of(fine_tune)
    claims["ledger"] = _ledger_problem(record)
    claims["forward FLOPs"] = _flops_problem(fine_tune.adapter, layers, record)
    claims["shapes"] = _shapes_problem(fine_tune.adapter, layers, record)
    return Result(
        row=row,
        record=record,
        ratio=record.metrics["forward_flops"].value / sum(one.flops for one in layers.values()),
        held=tuple(what for what, problem in claims.items() if problem == ""),
        broken={what: problem for what, problem in claims.items() if problem},
        unclaimed=tuple(what for what, problem in claims.items() if problem is None),
    )


@contextlib.contextmanager
def _products_in_order() -> Iterator[None]:
    """Let `einsum` multiply from left to right, also where opt_einsum is installed."""
    import torch

    if not torch.backends.opt_einsum.is_available():
        yield
        return
    with torch.backends.opt_einsum.flags(enabled=False):
        yield


def _ledger_problem(record: Record) -> str:
    try:
        check_sums([record], "ledger")
    except InputError as error:
        return str(error)
    return ""


def _flops_problem(config: Any, layers: Mapping[str, Layer], record: Record) -> str | None:
    """Say in which layers the forward FLOPs are not those of the formula; None without one."""
    spent: collections.Counter[str] = collections.Counter()
    for (module, _), flops in (rows_of(record.whole_ledger, "forward_flops") or {}).items():
        path = f"{module.removeprefix(_PREFIX)}."
        spent[next((name for name in layers if path.startswith(f"{name}.")), module)] += flops
    problems, is_known = [], True
    for name in [*layers, *(spent.keys() - layers.keys())]:
        claim: int | None = 0
        if name in layers:
            shapes = _shapes_in(record, name)
            extra = claimed_flops(layers[name], config, shapes) if shapes else 0
            claim = None if extra is None else layers[name].flops + extra
        if claim is None:
            is_known = False
        elif spent[name] != claim:
            problems.append(f"{name}: {spent[name]:,} FLOPs, {claim:,} by the formula")
    return "; ".join(problems) or ("" if is_known else None)


def _shapes_problem(config: Any, layers: Mapping[str, Layer], record: Record) -> str | None:
    """Say in which layers other shapes train than the rule says; None without a rule."""
    problems, is_known = [], True
    for name, layer in layers.items():
        found = _shapes_in(record, name)
        claim = claimed_shapes(layer, config) if found else {}
        if claim is None:
            is_known = False
        elif found != claim:
            problems.append(f"{name}: {found}, {claim} by the rule")
    return "; ".join(problems) or ("" if is_known else None)


def _shapes_in(record: Record, layer: str) -> Shapes:
    assert record.trained is not UNSET  # noqa: S101  (of a case of one's own)
    prefix = f"{_PREFIX}{layer}."
    return {
        name.removeprefix(prefix): tuple(shape)
        for name, shape in record.trained.items()
        if name.startswith(prefix)
    }
