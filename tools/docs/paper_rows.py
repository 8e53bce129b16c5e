"""The figures that arXiv 2507.23536 prints, and the same training steps measured here.

benchmarks/paper_tables.json has the published figures and their setting. This module imports no
torch: pytest lists the figures when it collects tests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from peft_regress import registry
from peft_regress.catalogue.methods.targets import ALL_BUT_GROUPED, Targets

if TYPE_CHECKING:
    from paper_counter import PaperCount
    from torch import nn
    from torch.optim import Optimizer

    from peft_regress.catalogue.architectures import Architecture
    from peft_regress.catalogue.methods import Method, PeftAdapter
    from peft_regress.measure.costs import CostReport, CostSettings

MIB: Final = 2**20
GIGA: Final = 10**9
PAPER_RANK: Final = 4
CATEGORIES: Final = ("param", "buffer", "grad", "activation", "temp", "optimizer", "total")
_TABLES: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "paper_tables.json"
_CLASSES: Final = 2


@dataclass(frozen=True, order=True)
class Row:
    """One row of the paper's tables, or one like it."""

    architecture: str
    method: str
    rank: int | None = None

    @property
    def freezes_head(self) -> bool:
        """Whether the head is frozen, as the paper does with adapters."""
        return self.method in {"lora", "dora"}

    def __str__(self) -> str:
        """Return the row as in the id of a test."""
        rank = "" if self.rank is None else f"-r{self.rank}"
        return f"{self.architecture}-{self.method}{rank}"


@dataclass(frozen=True)
class Figure:
    """A printed number with its digits: MiB of a memory category, GFLOP of a phase."""

    row: Row
    name: str
    printed: Decimal

    @property
    def half_digit(self) -> float:
        """Return half a unit of the last printed digit, which rounding explains."""
        return float(Decimal(5).scaleb(int(self.printed.as_tuple().exponent) - 1))

    def measured_mib(self) -> float:
        """Measure a memory figure."""
        return memory_bytes(measured(self.row), self.name) / MIB

    def counted_gflops(self) -> float:
        """Count a FLOP figure with the paper's counter."""
        flops: int = getattr(counted(self.row), self.name)
        return flops / GIGA

    def __str__(self) -> str:
        """Return the figure as in the id of a test."""
        return f"{self.row}-{self.name}"


def row(architecture: str, method: str, rank: int = PAPER_RANK) -> Row:
    """Return a row, without rank if the method has none."""
    return Row(architecture, method, rank if registry.get("method", method).ranks else None)


@cache
def measured(case: Row) -> CostReport:
    """Profile a row's step in the paper's setting, once."""
    from peft_regress.measure.costs import profile_method

    return profile_method(*_setting(case))


def _setting(case: Row) -> tuple[Method, Architecture, CostSettings]:
    from peft_regress.measure.costs import CostSettings

    architecture = registry.get("architecture", case.architecture)
    settings = CostSettings(classes=_CLASSES, loss="sum", bn="train", freeze_head=case.freezes_head)
    return _method_of(case), architecture, settings


class Convolutions(Targets):
    """What the paper adapts: the ungrouped convolutions, and no linear layer before the head."""

    def find(self, model: nn.Module, *, heads: tuple[str, ...]) -> dict[str, nn.Module]:
        """Return the layers by qualified name."""
        from torch.nn import Linear

        found = ALL_BUT_GROUPED.find(model, heads=heads)
        return {name: layer for name, layer in found.items() if not isinstance(layer, Linear)}


def _method_of(case: Row) -> Method:
    """Return the method of a row; the paper's networks have adapters on convolutions alone."""
    head = registry.get("architecture", case.architecture).head
    method: Method = registry.get("method", case.method).at(case.rank, heads=(head,))
    if case.freezes_head and case.architecture in PAPER_ARCHITECTURES:
        return replace(
            cast("PeftAdapter", method), targets=Convolutions(description="Conv2d with groups == 1")
        )
    return method


@cache
def counted(case: Row) -> PaperCount:
    """Count a row's step with the paper's counter, once."""
    from paper_counter import count_step

    shape = _setting(case)[2].input_shape
    return count_step(adapted(case), partial(_optimizer, case), input_shape=shape)


def adapted(case: Row) -> nn.Module:
    """Build the model of a row in the paper's setting, for counts that `measured` lacks."""
    from peft_regress.measure.costs import adapted_model

    return adapted_model(*_setting(case))


def _optimizer(case: Row, model: nn.Module) -> Optimizer:
    """Return a row's optimizer: torch's AdamW with its default weight decay.

    The registered methods have no weight decay, which saves one product per parameter.
    """
    if case.method == "galore":
        return _method_of(case).make_optimizer(model)
    from torch.optim import AdamW

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return AdamW(trained, foreach=False)


def memory_bytes(report: CostReport, category: str) -> int:
    """Return the high of a category, or the sum of all, which the paper calls the total."""
    name = "category_sum_bytes" if category == "total" else f"peak_{category}_bytes"
    size: int = getattr(report.step, name)
    return size


def _figures(table: dict[str, Any]) -> tuple[Figure, ...]:
    return tuple(
        Figure(row(architecture, method), name, printed)
        for architecture, methods in table.items()
        for method, figures in methods.items()
        for name, printed in figures.items()
    )


# Decimals keep the printed digits: 11.70 is more precise than 11.7.
_published = json.loads(_TABLES.read_text(), parse_float=Decimal)
MEMORY_FIGURES: Final = _figures(_published["memory_mib"])
PRINTED_MIB: Final = {(figure.row, figure.name): figure.printed for figure in MEMORY_FIGURES}
FLOP_FIGURES: Final = _figures(_published["gflops_paper_counter"])
PAPER_ARCHITECTURES: Final = frozenset(figure.row.architecture for figure in MEMORY_FIGURES)
