"""The command `peft-regress choose`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from peft_regress import registry
from peft_regress.budgets import Quantity, parse_amount
from peft_regress.cases import Case
from peft_regress.catalogue.evidence import read_evidence
from peft_regress.catalogue.own_cases import (
    device_classes,
    own_fine_tune,
    own_fine_tunes,
    usual_storage,
)
from peft_regress.cli import options
from peft_regress.devices import DeviceClass
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.fine_tune import FineTune
from peft_regress.report.terminal import say

if TYPE_CHECKING:
    from peft_regress.choosing.candidates import Answer

_AMOUNTS: Final[dict[str, Quantity]] = {
    "memory": "byte", "update": "flop", "ship": "byte", "storage": "byte",
}  # fmt: skip
_STEP_OF: Final[dict[str, set[str]]] = {
    "architecture": {"batch", "resolution", "task"},
    "model": {"batch", "inputs", "head"},
    "case": set(),
}
"""The options of a step, by what is to be fine-tuned."""


def _limit(name: str, example: str, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", metavar="AMOUNT", help=f"{text}, such as {example}.")


@click.command(
    "choose",
    epilog=options.examples(
        "peft-regress choose --device raspberry-pi-4-2gb --architecture mobilenet_v2",
        "peft-regress choose --memory 256MiB --architecture resnet18 --batch 1",
        "peft-regress choose --memory 1GiB --model my_models:build --input 3x96x96",
        "peft-regress choose --device jetson-nano --case digits/lora-r4/net --train",
    ),
)
@click.option("--architecture", metavar="NAME", help="A registered architecture: resnet18, ...")
@options.counted_option("--batch", "N", 8, "Items per step.")
@options.counted_option("--resolution", "PIXELS", 224, "Height and width of an image, in pixels.")
@click.option(
    "--model",
    metavar="MODULE:NAME",
    help="In place of --architecture: a function that returns a torch module, or such a class.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]SHAPE[:DTYPE]",
    help="An input of --model without its batch, such as 3x96x96; repeat it for several.",
)
@click.option(
    "--head",
    metavar="NAME",
    help="The module of --model that trains in full (default: its last linear layer).",
)
@click.option(
    "--case",
    metavar="ID",
    help="In place of both: a FineTune of your own, with each method for its adapter.",
)
@click.option(
    "--train",
    is_flag=True,
    help="Fine-tune what fits on the data of --case, by its steps and seeds, and rank by that. "
    "What falls below the best by more than noise is dropped early.",
)
@click.option("--device", metavar="NAME", help="A device class of docs/devices.md.")
@_limit("memory", "256MiB", "The most that the tensors of a step may take")
@_limit("update", "2GFLOP", "The most work of a step")
@_limit("ship", "500kB", "The most to send to a device")
@_limit("storage", "16MB", "The most that all weights may take")
@click.option(
    "--runtime",
    type=click.Choice(["eager", "executorch"]),
    default="eager",
    show_default=True,
    help="What takes the steps: PyTorch, or a program of ExecuTorch.",
)
@click.option(
    "--method",
    metavar="GLOB",
    default="*",
    help="Try only methods whose name matches, such as 'lora*', and full fine-tuning.",
)
@click.option(
    "--task",
    type=click.Choice(["unseen", "shift"]),
    default="unseen",
    show_default=True,
    help="The evidence to judge by: classes that the source never saw, or images that shifted.",
)
@click.option(
    "--time-limit",
    "seconds",
    type=click.IntRange(1),
    metavar="SECONDS",
    help="Try no further method after this time (default: try all).",
)
@options.format_option
@click.pass_context
def command(context: click.Context, /, *, output: str, **typed: Any) -> None:
    """Choose a method and its rank for a device, and say why.

    Each method of the catalogue is priced on fake tensors, at this batch and resolution. What fits
    is ranked by accuracy where there is evidence: differences within the noise of ten seeds are
    ties, and a tie goes to what takes less memory. The exit code is 1 if nothing fits, and 3 if not
    all was tried.
    """
    device = _device_of(typed["device"])
    amounts = {name: _amount(name, typed[name], unit) for name, unit in _AMOUNTS.items()}
    if device is None and not any(amounts.values()):
        raise click.UsageError("Name a --device, or a limit such as --memory 256MiB.")
    named = [name for name in ("architecture", "model", "case") if typed[name] is not None]
    if len(named) != 1:
        raise click.UsageError("Name one of --architecture, --model and --case.")
    others = set().union(*_STEP_OF.values()) - _STEP_OF[named[0]]
    options.refuse_beside(context, f"--{named[0]}", others, "that has another kind of step")
    case = _own_case(typed["case"])
    if typed["train"] and case is None:
        raise InputError("--train needs data: name a FineTune of your own by --case ID")

    from peft_regress.choosing import candidates, sections  # torch

    limits = candidates.Limits(device=device, runtime=typed["runtime"], **amounts)
    if typed["runtime"] == "executorch":
        from peft_regress.measure.edge.package import require_executorch

        require_executorch(runs=False)
    scores, scored_by = _evidence(typed["architecture"], typed["task"])
    step = {name: typed[name] for name in ("batch", "resolution")}
    if case is not None:
        subject = candidates.of_case(case, usual_storage())
    elif typed["model"] is not None:
        subject = candidates.of_model(
            typed["model"], typed["inputs"], head=typed["head"], batch=typed["batch"]
        )
    else:
        subject = candidates.of_architecture(typed["architecture"], **step)
    say("costs of one step of each method, on fake tensors: a minute or two", err=True)
    tried = {"only": typed["method"], "seconds": typed["seconds"]}
    answer = candidates.try_all(subject, limits, scores, scored_by=scored_by, **tried)
    if typed["train"] and case is not None:
        answer = _trained(answer, case)
    options.print_result(output, sections.answer_json(answer), sections.answer_sections(answer))
    context.exit(answer.exit_code)


def _own_case(name: str | None) -> FineTune | None:
    if name is None:
        return None
    found = own_fine_tune(Case.parse(name))
    if not isinstance(found, FineTune):
        known = [one.id for one in own_fine_tunes().values() if isinstance(one, FineTune)]
        raise UnknownNameError("FineTune of your own", name, known)
    return found


def _evidence(architecture: str | None, task: str) -> tuple[Mapping[str, Sequence[float]], str]:
    """Return the scores of the methods on an architecture, and where they are from."""
    if architecture is None:
        return {}, ""
    registry.get("architecture", architecture)
    evidence = read_evidence()
    scores = evidence.scores[task].get(architecture, {})
    scored_by = (
        f"accuracy on the task {task}, {evidence.seeds} seeds of {evidence.steps} steps at batch "
        f"{evidence.batch} on images of 32x32: docs/evidence.md"
    )
    return scores, scored_by if scores else ""


def _trained(answer: Answer, case: FineTune) -> Answer:
    """Return the answer with the scores of the case's own data."""
    from peft_regress.choosing.training import as_code, train_all  # torch

    report = functools.partial(say, err=True)
    found, failed = train_all(case, answer.candidates, usual_storage(), say=report)
    is_accuracy = case.score is None and all(min(one.scores, default=0) >= 0 for one in found)
    trained = dataclasses.replace(
        answer,
        candidates=found,
        unit="fraction" if is_accuracy else "ratio",
        scored_by=f"on the data of {case.id}, up to {case.seeds} seeds of {case.steps} steps",
        untrained=failed,
    )
    order = trained.order
    return dataclasses.replace(trained, code=as_code(case, order[0]) if order else "")


def _device_of(name: str | None) -> DeviceClass | None:
    known = {one.name: one for one in device_classes()}
    if name is not None and name not in known:
        raise UnknownNameError("device", name, known)
    return None if name is None else known[name]


def _amount(name: str, text: str | None, quantity: Quantity) -> int | None:
    try:
        return None if text is None else parse_amount(text, quantity)
    except InputError as error:
        raise InputError(f"--{name} {error}") from None
