"""The command `peft-regress choose`."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.evidence import POINTS, Study, read_evidence
from peft_regress.choosing.ranking import COST_UNITS
from peft_regress.cli import options
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.project.budgets import Quantity, parse_amount
from peft_regress.project.fine_tune import FineTune
from peft_regress.project.project import current_project
from peft_regress.report.terminal import say

if TYPE_CHECKING:
    from peft_regress.choosing.candidates import Answer

_STEP_OF: Final[dict[str, set[str]]] = {
    "architecture": {"batch", "resolution", "task"},
    "model": {"batch", "inputs", "head"},
    "case": set(),
}
"""The options of a step, by what is to be fine-tuned."""


def _limit(name: str, example: str, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", metavar="AMOUNT", help=f"{text}, such as {example}.")


@options.command(
    "choose",
    "peft-regress choose --device raspberry-pi-4-2gb --architecture mobilenet_v2",
    "peft-regress choose --memory 256MiB --architecture resnet18 --batch 1",
    "peft-regress choose --memory 1GiB --model my_models:build --input 3x96x96",
    "peft-regress choose --device jetson-nano --case digits/lora-r4/net --train",
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
    help="Fine-tune what fits on the data of --case, until full fine-tuning learns no more, each "
    "method at the best of five rates, and rank by that. What is clearly worse is stopped early.",
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
    metavar="NAME",
    default="unseen",
    show_default=True,
    help="The study to judge by: classes that the source never saw, or images that shifted "
    "(`shift`).",
)
@click.option(
    "--margin",
    metavar="POINTS",
    type=click.FloatRange(min=0, min_open=True),
    default=POINTS,
    show_default=True,
    help="Scores are equal if the interval of their difference is within so many points; of a "
    "score of your own, in percent of that of full fine-tuning.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    help="Of --train: as many steps (default: those of the case, doubled until full fine-tuning "
    "learns no more).",
)
@click.option(
    "--time-limit",
    "seconds",
    type=click.IntRange(1),
    metavar="SECONDS",
    help="Try no further method after this time (default: try all).",
)
@options.format_option
def command(*, output: str, **typed: Any) -> int:
    """Choose a method and its rank for a device, and say why.

    Each method of the catalogue is priced on fake tensors, at this batch and resolution, and with
    `lean` where that takes notably less memory. What fits is ranked by accuracy where networks have
    learned: what equals the best within a margin is ordered by FLOPs, and what takes over nine
    tenths of the memory last. The exit code is 1 if nothing fits, and 3 if not all was tried.
    """
    devices = {one.name: one for one in current_project().devices}
    if typed["device"] not in {None, *devices}:
        raise UnknownNameError("device", typed["device"], devices)
    device = devices.get(typed["device"])
    amounts = {name: _amount(name, typed[name], unit) for name, unit in COST_UNITS.items()}
    if device is None and not any(amounts.values()):
        raise click.UsageError("Name a --device, or a limit such as --memory 256MiB.")
    named = [name for name in ("architecture", "model", "case") if typed[name] is not None]
    if len(named) != 1:
        raise click.UsageError("Name one of --architecture, --model and --case.")
    others = set().union(*_STEP_OF.values()) - _STEP_OF[named[0]]
    options.refuse_beside(f"--{named[0]}", others, "that has another kind of step")
    case = _own_case(typed["case"])
    if typed["train"] and case is None:
        raise InputError("--train needs data: name a FineTune of your own by --case ID")
    if typed["steps"] is not None and not typed["train"]:
        raise click.UsageError("--steps is of --train.")

    from peft_regress.choosing import candidates  # torch
    from peft_regress.report import choice

    limits = candidates.Limits(device=device, runtime=typed["runtime"], **amounts)
    if typed["runtime"] == "executorch":
        from peft_regress.measure.edge.package import require_executorch

        require_executorch(runs=False)
    study = _study(typed["architecture"], typed["task"])
    if case is not None:
        subject = candidates.of_case(case, current_project().storage)
    elif typed["model"] is not None:
        subject = candidates.of_model(
            typed["model"], typed["inputs"], head=typed["head"], batch=typed["batch"]
        )
    else:
        sizes = {name: typed[name] for name in ("batch", "resolution")}
        subject = candidates.of_architecture(typed["architecture"], **sizes)
    ends = time.monotonic() + (typed["seconds"] or math.inf)
    say("costs of one step of each method, on fake tensors: a minute or two", err=True)
    answer = candidates.try_all(subject, limits, study, only=typed["method"], ends=ends)
    answer = dataclasses.replace(answer, points=typed["margin"])
    if typed["train"] and case is not None:
        answer = _trained(answer, case, steps=typed["steps"], ends=ends)
    options.print_result(output, choice.answer_json(answer), choice.answer_sections(answer))
    return answer.exit_code


def _own_case(name: str | None) -> FineTune | None:
    if name is None:
        return None
    case, every = Case.parse(name), current_project().cases().values()
    own = {one.id: one for one in every if isinstance(one, FineTune)}
    if case.id not in own:
        raise UnknownNameError("FineTune of your own", name, own)
    return own[case.id]


def _study(architecture: str | None, task: str) -> Study | None:
    if architecture is None:
        return None
    registry.get("architecture", architecture)
    evidence = read_evidence()
    if task not in evidence.studies:
        raise UnknownNameError("task of a study", task, evidence.studies)
    return evidence.of(architecture).get(task)


def _trained(answer: "Answer", case: FineTune, *, steps: int | None, ends: float) -> "Answer":
    from peft_regress.choosing.study import Plan, Trainer, as_code, study_of  # torch

    plan = Plan(
        names=[one.name for one in answer.candidates if not one.lacks],
        start=case.steps,
        # A schedule of the case's own ends with its steps.
        steps=case.steps if steps is None and case.schedule is not None else steps,
        seeds=max(case.seeds, Plan.seeds),
        points=answer.points,
        ends=ends,
        say=functools.partial(say, err=True),
    )
    trainer = Trainer.of(case, current_project().storage)
    study, failed, untried = study_of(
        trainer, plan, images=f"the data of {case.id}", batch=case.batch
    )
    trained = dataclasses.replace(
        answer, study=study, untrained=failed, untried=[*answer.untried, *untried]
    )
    if trained.problem and not failed:
        trained = dataclasses.replace(trained, untrained={"every method": trained.problem})
    best = next((one.name for one in trained.order if one.scores), "")
    return dataclasses.replace(trained, code=as_code(case, study, best) if study and best else "")


def _amount(name: str, text: str | None, quantity: Quantity) -> int | None:
    try:
        return None if text is None else parse_amount(text, quantity)
    except InputError as error:
        raise InputError(f"--{name} {error}") from None
