"""Show that the tasks distinguish methods, and how the learning rates were chosen.

    python tools/studies/task_study.py --seeds 5
    python tools/studies/task_study.py --learning-rates --seeds 3

Prints Markdown, accuracy in percent, mean +- standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress import registry
from peft_regress.catalogue.built_in import BATCH, STEPS, cosine_to_zero, set_modes
from peft_regress.catalogue.sources import build_source
from peft_regress.measure.data import Data, TensorItems
from peft_regress.measure.objective import Objective
from peft_regress.measure.training import Loop, finetune, single_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from peft_regress.catalogue.architectures import Architecture
    from peft_regress.catalogue.methods import Method
    from peft_regress.catalogue.tasks import Task

BASELINES = Path(__file__).resolve().parents[2] / "baselines"
COLUMNS = ("head", "bn_head", "lora-r4", "dora-r4", "galore-r4", "full")
RATES = (0.25, 0.5, 1.0, 2.0)  # multiples of the rate in use


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One fine-tuning run; losses in nats; `seconds` of processor time, evaluation included."""

    accuracy: float
    loss: float
    first_losses: tuple[float, ...]
    seconds: float


def parse_column(column: str) -> tuple[Method, int | None]:
    """Split `lora-r4` into the method and its rank."""
    name, _, rank = column.partition("-r")
    return registry.get("method", name), int(rank) if rank else None


def run_once(  # noqa: PLR0913  (the axes of the study)
    source: nn.Module,
    *,
    architecture: Architecture,
    task: Task,
    column: str,
    seed: int,
    steps: int = STEPS,
    rate_factor: float = 1.0,
) -> Outcome:
    """Fine-tune a copy of the source once and evaluate it."""
    method, rank = parse_column(column)
    data = task.load()
    started = time.process_time()
    with single_thread():
        base = copy.deepcopy(source)
        task.prepare(base, head=architecture.head, seed=seed)
        model = method.adapt(base, heads=(architecture.head,), rank=rank, seed=seed)
        optimizer = method.make_optimizer(model, rank=rank)
        for group in optimizer.param_groups:
            group["lr"] *= rate_factor
        objective = Objective()
        loop = Loop(
            steps=steps,
            loss=objective.loss,
            set_mode=functools.partial(
                set_modes, batch_norm_statistics=method.trains_batch_norm_statistics
            ),
            schedule=cosine_to_zero(steps),
        )
        train = TensorItems((data.train_images, data.train_labels))
        batches = Data(train=train, test=train).training_batches(BATCH, seed=seed)
        run = finetune(model, optimizer, batches, loop, seed=seed, first=4)
        scores = objective.scores(model, [(data.test_images, data.test_labels)])
    return Outcome(
        accuracy=scores["accuracy"],
        loss=scores["loss"],
        first_losses=run.first_losses,
        seconds=time.process_time() - started,
    )


def zero_shot(source: nn.Module, *, architecture: Architecture, task: Task, seed: int) -> float:
    """Return the accuracy before any training."""
    base = copy.deepcopy(source)
    task.prepare(base, head=architecture.head, seed=seed)
    data = task.load()
    return Objective().scores(base, [(data.test_images, data.test_labels)])["accuracy"]


def summary(fractions: Sequence[float]) -> str:
    """Show accuracies as percent, mean +- sample standard deviation."""
    mean = 100 * statistics.fmean(fractions)
    deviation = 100 * statistics.stdev(fractions) if len(fractions) > 1 else 0.0
    return f"{mean:.1f} +- {deviation:.1f}"


def row(cells: Iterable[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def print_discrimination(arguments: argparse.Namespace) -> None:
    """Print zero-shot and every method, architecture by architecture."""
    for task_name in arguments.tasks:
        task = registry.get("task", task_name)
        print(f"\n{task_name}: accuracy in percent, {arguments.seeds} seeds\n")
        print(row(["architecture", "zero-shot", *arguments.methods]))
        print(row(["---"] * (2 + len(arguments.methods))))
        for name in arguments.architectures:
            architecture = registry.get("architecture", name)
            source = build_source(arguments.baselines, architecture)
            cells = [
                summary(
                    [
                        zero_shot(source, architecture=architecture, task=task, seed=seed)
                        for seed in range(arguments.seeds)
                    ]
                )
            ]
            seconds = []
            for column in arguments.methods:
                outcomes = [
                    run_once(
                        source,
                        architecture=architecture,
                        task=task,
                        column=column,
                        seed=seed,
                        steps=arguments.steps,
                    )
                    for seed in range(arguments.seeds)
                ]
                cells.append(summary([outcome.accuracy for outcome in outcomes]))
                seconds.append(f"{statistics.median(o.seconds for o in outcomes):.2f}")
            print(row([name, *cells]), flush=True)
            print(f"{name}: seconds a run: {' '.join(seconds)}", file=sys.stderr, flush=True)


def print_learning_rates(arguments: argparse.Namespace) -> None:
    """Print each method's accuracy and loss at multiples of the rate in use."""
    for task_name in arguments.tasks:
        task = registry.get("task", task_name)
        print(f"\n{task_name}: accuracy in percent (test loss), {arguments.seeds} seeds\n")
        print(row(["method", "architecture", *(f"x {factor:g}" for factor in RATES)]))
        print(row(["---"] * (2 + len(RATES))))
        for column in arguments.methods:
            for name in arguments.architectures:
                architecture = registry.get("architecture", name)
                source = build_source(arguments.baselines, architecture)
                cells = []
                for factor in RATES:
                    outcomes = [
                        run_once(
                            source,
                            architecture=architecture,
                            task=task,
                            column=column,
                            seed=seed,
                            steps=arguments.steps,
                            rate_factor=factor,
                        )
                        for seed in range(arguments.seeds)
                    ]
                    loss = statistics.fmean(outcome.loss for outcome in outcomes)
                    cells.append(f"{summary([o.accuracy for o in outcomes])} ({loss:.2f})")
                print(row([column, name, *cells]), flush=True)


def main() -> None:
    """Parse the command line and print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tasks", nargs="+", default=list(registry.names("task")))
    parser.add_argument("--methods", nargs="+", default=list(COLUMNS))
    in_a_matrix = [item.name for item in registry.items("architecture") if item.matrices]
    parser.add_argument("--architectures", nargs="+", default=in_a_matrix)
    parser.add_argument("--baselines", type=Path, default=BASELINES)
    parser.add_argument("--learning-rates", action="store_true", help="sweep instead of compare")
    arguments = parser.parse_args()
    if arguments.learning_rates:
        print_learning_rates(arguments)
    else:
        print_discrimination(arguments)


if __name__ == "__main__":
    main()
