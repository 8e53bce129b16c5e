"""Time the training steps of two interpreters in turns and judge which is slower. No torch here.

`time_cases` starts a `worker` in each interpreter; `messages` has what they exchange.
"""

from peft_regress.upgrades.timing.time_cases import time_cases

__all__ = ["time_cases"]
