"""The fine-tuning of a built-in case."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress import registry
from peft_regress.cases import Case, Json
from peft_regress.catalogue.architectures import Architecture
from peft_regress.catalogue.architectures.efficientnet_lite import EfficientNetLite0
from peft_regress.catalogue.matrix import method_at
from peft_regress.catalogue.methods.method import Method
from peft_regress.catalogue.sources import build_source, source_digest
from peft_regress.catalogue.tasks.digits import NUM_CLASSES, Task
from peft_regress.catalogue.tasks.edge import EDGE_STEPS, EdgeTask
from peft_regress.project.fine_tune import FineTune
from peft_regress.project.settings import DEFAULT_MATRIX

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

STEPS: Final = 22
BATCH: Final = 32
SEEDS: Final = 3
TEST_BATCH: Final = 200


@dataclass(frozen=True, kw_only=True)
class BuiltIn(FineTune):
    """A fine-tuning of the catalogue. It alone states costs and a definition of its own.

    Its costs are of a step on 1x3x224x224 and on 32x3x224x224, 10 classes, and depend on no task.
    """

    method: Method
    defined_by: Callable[[], dict[str, Json]]
    """Returns what defines the case, without the loop."""
    runs_in_executorch: bool = False
    """Whether it is exported and run there, not trained here. Its costs are of its own batch."""


def built_in(case: Case, baselines: Path) -> BuiltIn:
    """Return the fine-tuning of a case, by the names in it.

    baselines: the folder with the source checkpoint. A case of an edge task takes the weights that
    its architecture brings, if it brings any. Raises `UnknownNameError` for a name that is not
    registered, `InputError` for a wrong rank.
    """
    task: Task = registry.get("task", case.task)
    architecture: Architecture = registry.get("architecture", case.architecture)
    method = method_at(case.method, case.rank, heads=(architecture.head,))
    edge = task if isinstance(task, EdgeTask) else None
    brings = architecture if edge and isinstance(architecture, EfficientNetLite0) else None

    def model() -> "nn.Module":
        import torch  # listing cases must not cost the import

        if brings:
            source = brings.source(num_classes=NUM_CLASSES)
        else:
            source = build_source(baselines, architecture)
        # Whoever measures has set the seed.
        task.prepare(source, head=architecture.head, seed=torch.initial_seed())
        return source

    def defined_by() -> dict[str, Json]:
        cost: Json = {"batches": [1, BATCH], "resolution": 224, "classes": 10}
        digest = brings.source_sha256 if brings else source_digest(baselines, architecture.name)
        return {
            "source": digest,
            "task": task.definition(),
            "method": method.hyperparameters(),
            **({} if edge else {"cost": cost}),
        }

    return BuiltIn(
        case.id,
        model=model,
        data=task.load,
        adapter=case.adapter_name,
        also_train=method.heads,
        schedule=None if edge else cosine_to_zero(STEPS),
        mode=method.set_mode,
        steps=EDGE_STEPS if edge else STEPS,
        batch=edge.batch if edge else BATCH,
        seeds=1 if edge else SEEDS,
        matrix=DEFAULT_MATRIX,
        method=method,
        defined_by=defined_by,
        runs_in_executorch=edge is not None,
    )


def cosine_to_zero(steps: int) -> "Callable[[Optimizer], LRScheduler]":
    """Return a schedule whose rates fall by a half cosine from the optimizer's own to zero."""

    def schedule(optimizer: "Optimizer") -> "LRScheduler":
        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))

    return schedule
