"""Show that the tasks distinguish methods, and how the learning rates were chosen.

    python tools/studies/task_study.py --seeds 5
    python tools/studies/task_study.py --learning-rates --seeds 3

Prints Markdown: accuracy in percent, mean +- standard deviation over the seeds; with
`--learning-rates` at multiples of the rate in use, with the test loss.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress import registry
from peft_regress.cases import split_adapter_name
from peft_regress.catalogue.built_in import BATCH, STEPS, cosine_to_zero, set_modes
from peft_regress.catalogue.sources import build_source
from peft_regress.measure.data import Data, TensorItems
from peft_regress.measure.objective import Objective
from peft_regress.measure.training import Loop, finetune, single_thread

if TYPE_CHECKING:
    from torch import nn

    from peft_regress.catalogue.architectures import Architecture
    from peft_regress.catalogue.tasks.digits import Task

BASELINES: Final = Path(__file__).resolve().parents[2] / "baselines"
COLUMNS: Final = ("head", "bn_head", "lora-r4", "dora-r4", "galore-r4", "full")
RATES: Final = (0.25, 0.5, 1.0, 2.0)


def trained(  # noqa: PLR0913  (the axes of the study)
    base: nn.Module, task: Task, column: str, *, head: str, seed: int, factor: float
) -> nn.Module:
    """Return a prepared base as a method fine-tunes it, at a multiple of its rate."""
    name, rank = split_adapter_name(column)
    method, data = registry.get("method", name), task.load()
    model: nn.Module = method.adapt(base, heads=(head,), rank=rank, seed=seed)
    optimizer = method.make_optimizer(model, rank=rank)
    for group in optimizer.param_groups:
        group["lr"] *= factor
    loop = Loop(
        steps=STEPS,
        loss=Objective().loss,
        set_mode=functools.partial(
            set_modes, batch_norm_statistics=method.trains_batch_norm_statistics
        ),
        schedule=cosine_to_zero(STEPS),
    )
    items = TensorItems((data.train_images, data.train_labels))
    batches = Data(train=items, test=items).training_batches(BATCH, seed=seed)
    finetune(model, optimizer, batches, loop, seed=seed)
    return model


def cell(  # noqa: PLR0913  (the axes of the study)
    source: nn.Module,
    architecture: Architecture,
    task: Task,
    column: str,
    *,
    seeds: int,
    factor: float | None = None,
) -> str:
    """Return accuracies in percent over the seeds; with a factor of the rate the loss as well."""
    scores = []
    for seed in range(seeds):
        with single_thread():
            model = copy.deepcopy(source)
            task.prepare(model, head=architecture.head, seed=seed)
            if column != "zero-shot":
                model = trained(
                    model, task, column, head=architecture.head, seed=seed, factor=factor or 1.0
                )
            data = task.load()
            scores.append(Objective().scores(model, [(data.test_images, data.test_labels)]))
    percents = [100 * score["accuracy"] for score in scores]
    spread = statistics.stdev(percents) if seeds > 1 else 0.0
    loss = "" if factor is None else f" ({statistics.fmean(s['loss'] for s in scores):.2f})"
    return f"{statistics.fmean(percents):.1f} +- {spread:.1f}{loss}"


def main() -> None:
    """Print a table for each task: methods as columns, or rates."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(COLUMNS))
    parser.add_argument("--learning-rates", action="store_true", help="sweep instead of compare")
    chosen = parser.parse_args()
    architectures = [item.name for item in registry.items("architecture") if item.matrices]
    columns = ["zero-shot", *chosen.methods]
    shown = [f"x {factor:g}" for factor in RATES] if chosen.learning_rates else columns
    for task_name in registry.names("task"):
        task = registry.get("task", task_name)
        print(f"\n{task_name}: accuracy in percent, {chosen.seeds} seeds\n")
        print("| | " + " | ".join(shown) + " |\n|" + " --- |" * (1 + len(shown)))
        for name in architectures:
            architecture = registry.get("architecture", name)
            one = functools.partial(
                cell, build_source(BASELINES, architecture), architecture, task, seeds=chosen.seeds
            )
            if not chosen.learning_rates:
                print(f"| {name} | " + " | ".join(map(one, columns)) + " |", flush=True)
                continue
            for method in chosen.methods:
                cells = [one(method, factor=factor) for factor in RATES]
                print(f"| {method} {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
