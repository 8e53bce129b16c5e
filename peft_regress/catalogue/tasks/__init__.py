"""Tasks that a source model is adapted to. No torch at import."""

from peft_regress.catalogue.tasks.digits import SHIFT, UNSEEN, DigitsTask
from peft_regress.catalogue.tasks.protocol import Task, TaskData

__all__ = ["SHIFT", "UNSEEN", "DigitsTask", "Task", "TaskData"]
