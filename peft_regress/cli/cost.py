"""The command `peft-regress cost`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from peft_regress import registry
from peft_regress.cases import Adaptation
from peft_regress.catalogue.matrix import method_at, select_cases
from peft_regress.cli import options
from peft_regress.errors import InputError
from peft_regress.imports import current_folder_first
from peft_regress.metrics import Metric
from peft_regress.project.project import current_project
from peft_regress.report.document import Section
from peft_regress.report.results import cost_section
from peft_regress.report.terminal import say

if TYPE_CHECKING:
    from peft_regress.cost import StepCost


@options.command(
    "cost",
    "peft-regress cost --architecture resnet18 --method lora --rank 4",
    "peft-regress cost --model my_models:build --input 8x128:int64",
    "peft-regress cost --cases 'shift/lora-*/resnet18'",
)
@click.option("--architecture", metavar="NAME", help="A registered architecture: resnet18, ...")
@click.option("--method", metavar="NAME", help="A registered method: lora, dora, galore, full, ...")
@click.option("--rank", type=options.WHOLE, metavar="R", help="The rank, if the method has one.")
@options.counted_option("--batch", "N", 1, "Images per step.")
@options.counted_option("--resolution", "PIXELS", 224, "Height and width of an image, in pixels.")
@options.counted_option("--classes", "N", 10, "Outputs of the last layer.")
@click.option(
    "--loss",
    type=click.Choice(["sum", "cross-entropy"]),
    default="cross-entropy",
    show_default=True,
    help="The loss; `sum` adds up the outputs.",
)
@click.option(
    "--bn", type=click.Choice(["train", "eval"]), help="BatchNorm mode (default: the method's)."
)
@click.option("--freeze-head", is_flag=True, help="Leave the last layer untrained.")
@click.option(
    "--model",
    metavar="MODULE:NAME",
    help="In place of a method and an architecture: a function that returns a torch module, or the "
    "class of one. What requires a gradient trains, by AdamW, on the `loss` that it returns, or "
    "else on the sum of its floating-point outputs.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]SHAPE[:DTYPE]",
    help="An input of --model, such as 8x128:int64 or mask=8x128:bool; repeat it for several.",
)
@options.cases_option(
    "In place of a method and an architecture: each case whose id matches, at its own step."
)
@options.matrix_option
@options.format_option
def command(model: str | None, output: str, **settings: Any) -> None:
    """Show what one training step costs, without training and without a source model."""
    typed = {"model", *settings}
    cases, matrix, inputs = (settings.pop(name) for name in ("cases", "matrix", "inputs"))
    if model is not None:
        others = typed - {"model", "inputs"}
        options.refuse_beside("--model", others, "build the model as you train it there")
        _show_model(model, inputs, output)
        return
    if cases is not None:
        others = typed - {"cases", "matrix"}
        options.refuse_beside("--cases", others, "a case has its own step")
        _show_cases(cases, output, matrix=matrix)
        return
    if options.was_typed("matrix"):
        raise InputError("--matrix is for cases: name them by --cases GLOB")
    if inputs:
        raise InputError("--input is of a model of your own: name it by --model MODULE:NAME")
    architecture, method = settings.pop("architecture"), settings.pop("method")
    if architecture is None or method is None:
        problem = "Name --architecture and --method, or --model in place of both, or --cases."
        raise click.UsageError(problem)
    method_at(method, settings["rank"])
    registry.get("architecture", architecture)
    names = Adaptation(method=method, architecture=architecture, rank=settings.pop("rank"))
    _show_adaptation(names, settings, output)


def _show_adaptation(adaptation: Adaptation, settings: dict[str, Any], output: str) -> None:
    from peft_regress.measure.costs import CostSettings, adaptation_cost, metrics_of  # torch

    chosen = CostSettings(**settings)
    with _warnings_as_lines():
        cost = adaptation_cost(adaptation, chosen)
    stated = {"case": dataclasses.asdict(adaptation), "settings": dataclasses.asdict(chosen)}
    rank = "" if adaptation.rank is None else f" r={adaptation.rank}"
    ranked = f"{adaptation.architecture}, {adaptation.method}{rank}"
    image = f"{chosen.batch}x3x{chosen.resolution}x{chosen.resolution}"
    on = f"one training step on {image}, {chosen.classes} classes"
    encoded, section = _made(f"{ranked}, {on}", metrics_of({"": cost}), cost.step)
    options.print_result(output, {**stated, **encoded}, [section])


def _show_cases(pattern: str, output: str, *, matrix: str) -> None:
    cases = select_cases(pattern, matrix=matrix)

    from peft_regress.measure import ProfileCache, Recipe  # torch
    from peft_regress.measure.costs import costs_of, metrics_of

    profiles, own, storage = ProfileCache(), current_project().cases(), current_project().storage
    with _warnings_as_lines():
        recipes = (Recipe.of(own.get(case.id, case), storage) for case in cases)
        found = {recipe.case.id: costs_of(recipe, profiles) for recipe in recipes}
    encoded, sections = [], []
    for name, costs in found.items():
        step = costs[""].step
        title = f"{name}, one training step of its own ({step.tensors})"
        built, section = _made(title, metrics_of(costs), step)
        sections.append(section)
        encoded.append({"id": name, "tensors": step.tensors, **built})
    options.print_result(output, {"cases": encoded}, sections)


def _show_model(path: str, inputs: tuple[str, ...], output: str) -> None:
    from peft_regress.cost.pricing import price_typed  # torch

    with current_folder_first(), _warnings_as_lines():
        cost = price_typed(path, inputs)
    settings = {"inputs": list(inputs), "tensors": cost.step.tensors}
    on = f"{' and '.join(inputs) or 'no input'} ({cost.step.tensors})"
    encoded, section = _made(f"{path}, one training step on {on}", cost.metrics, cost.step)
    options.print_result(output, {"model": path, "settings": settings, **encoded}, [section])


def _made(title: str, metrics: dict[str, Metric], step: StepCost) -> tuple[dict[str, Any], Section]:
    """Return the metrics, and what of the peak no gradient needs, as JSON and as a section."""
    spared = [site._asdict() for site in step.spared_at_peak]
    encoded = {"metrics": msgspec.to_builtins(metrics), "spared": spared}
    return encoded, cost_section(title, metrics, step.spared_at_peak)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print warnings as plain lines at the end, without the path of the library that warns."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught):
        say(f"warning: {text}", err=True)
