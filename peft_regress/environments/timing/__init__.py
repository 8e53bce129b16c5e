"""Time the steps of two interpreters, which take turns, and tell which is slower. No torch here.

`conduct` starts `worker`s through `process`; they speak `messages`.
"""

from peft_regress.environments.timing.time_cases import time_cases

__all__ = ["time_cases"]
