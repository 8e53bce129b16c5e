"""Tasks that a source model is adapted to. No torch at import."""

from peft_regress.catalogue.tasks.digits import SHIFT, UNSEEN, DigitsTask, Task, TaskData
from peft_regress.catalogue.tasks.edge import EDGE, EDGE_BATCH, EdgeTask

__all__ = [
    "EDGE",
    "EDGE_BATCH",
    "SHIFT",
    "UNSEEN",
    "DigitsTask",
    "EdgeTask",
    "Task",
    "TaskData",
]
