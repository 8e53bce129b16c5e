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
from peft_regress.catalogue.methods.targets import Targets

if TYPE_CHECKING:
    from paper_counter import PaperCount
    from torch import nn
    from torch.optim import Optimizer

    from peft_regress.catalogue.architectures import Architecture
    from peft_regress.catalogue.methods import Method, PeftAdapter
    from peft_regress.cost import TrainingCost
    from peft_regress.measure.costs import CostSettings

MIB: Final = 2**20
GIGA: Final = 10**9
PAPER_RANK: Final = 4
CATEGORIES: Final = ("param", "buffer", "grad", "activation", "temp", "optimizer", "total")
_TABLES: Final = Path(__file__).resolve().parents[2] / "benchmarks" / "paper_tables.json"
_CLASSES: Final = 2
LANGUAGE_MODEL: Final = "gpt2"
TOKENS: Final = 128


@dataclass(frozen=True, order=True)
class Row:
    """One row of the paper's tables, or one like it."""

    architecture: str
    method: str
    rank: int | None = None
    batch: int = 1

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


def row(architecture: str, method: str, *, batch: int = 1) -> Row:
    """Return a row at the paper's rank, or without one if the method has none."""
    rank = PAPER_RANK if registry.get("method", method).ranks else None
    return Row(architecture, method, rank, batch)


@cache
def measured(case: Row) -> TrainingCost:
    """Profile a row's step in the paper's setting, once."""
    from peft_regress.measure.costs import profile_method

    is_language = case.architecture == LANGUAGE_MODEL
    return _of_tokens(case) if is_language else profile_method(*_setting(case))


def _of_tokens(case: Row) -> TrainingCost:
    """Profile GPT-2's step with its own loss, dropout off: its configuration, random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from peft_regress.cost import RandomTensor, training_cost

    method = _method_of(case)
    model = method.adapt(GPT2LMHeadModel(GPT2Config(use_cache=False)), seed=0)
    method.set_mode(model)
    tokens = RandomTensor((case.batch, TOKENS), torch.int64)
    batch = {"input_ids": tokens, "labels": tokens}
    return training_cost(model, batch, optimizer=method.make_optimizer, fake=True)


def _setting(case: Row) -> tuple[Method, Architecture, CostSettings]:
    from peft_regress.measure.costs import CostSettings

    settings = CostSettings(
        batch=case.batch, classes=_CLASSES, loss="sum", bn="train", freeze_head=case.freezes_head
    )
    return _method_of(case), registry.get("architecture", case.architecture), settings


class Convolutions(Targets):
    """What the paper adapts: the ungrouped convolutions, and no linear layer before the head.

    The linear layers in GPT-2's blocks are of transformers' class Conv1D.
    """

    def find(self, model: nn.Module, **_: object) -> dict[str, nn.Module]:
        """Return the layers by qualified name; no head has any."""
        return {
            name: layer
            for name, layer in model.named_modules()
            if type(layer).__name__ in {"Conv2d", "Conv1D"} and getattr(layer, "groups", 1) == 1
        }


def _method_of(case: Row) -> Method:
    """Return the method of a row; the paper's networks have adapters on convolutions alone."""
    is_language = case.architecture == LANGUAGE_MODEL
    head = "lm_head" if is_language else registry.get("architecture", case.architecture).head
    # A head that trains would train the embeddings, which are the same weight.
    heads = () if is_language and case.freezes_head else (head,)
    method: Method = registry.get("method", case.method).at(case.rank, heads=heads)
    if case.freezes_head and case.architecture in PAPER_ARCHITECTURES | {LANGUAGE_MODEL}:
        return replace(
            cast("PeftAdapter", method),
            targets=Convolutions(description="Conv2d with groups == 1, Conv1D"),
            expected_warning="fan_in_fan_out is set|`is_gradient_checkpointing` is deprecated",
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


def memory_bytes(report: TrainingCost, category: str) -> int:
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
PUBLISHED: Final[dict[str, Any]] = json.loads(_TABLES.read_text(), parse_float=Decimal)
MEMORY_FIGURES: Final = _figures(PUBLISHED["memory_mib"])
PRINTED_MIB: Final = {(figure.row, figure.name): figure.printed for figure in MEMORY_FIGURES}
FLOP_FIGURES: Final = _figures(PUBLISHED["gflops_paper_counter"])
PAPER_ARCHITECTURES: Final = frozenset(figure.row.architecture for figure in MEMORY_FIGURES)
