"""Measure a row of upstream's tests like a fine-tuning of a user, and check the claims."""

from __future__ import annotations

import collections
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET
from upstream_claims import Layer, Shapes, claimed_flops, claimed_shapes, explained

from peft_regress.errors import InputError
from peft_regress.fine_tune import FineTune
from peft_regress.runs.ledger import check_sums, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn
    from upstream_source import Row

    from peft_regress.runs.schema import Record

__all__ = ["Result", "fine_tune_of", "layers_of", "measured"]

_STEPS: Final = 3
_INPUT: Final = (9, 10)
"""What upstream gives to each network, which brings it into the form that it needs."""
_PREFIX: Final = "base_model.model."


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
