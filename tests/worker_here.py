"""A worker in this process: one of its own would import torch again."""

import threading

import msgspec

from peft_regress.workers.serve import Functions
from peft_regress.workers.worker import RequestRefusedError

# Loading seeds the generators and replaces a method of the library: for all threads, here.
_ONE_AT_A_TIME = threading.Lock()


class WorkerHere:
    """Calls functions as a worker does, through JSON."""

    is_alive = True
    time_limit = 60.0

    def __init__(self, interpreter="here", packages=None):
        self.interpreter = interpreter
        self.packages = packages or {}
        self._functions = Functions()

    def ask(self, function, request, answer):
        try:
            with _ONE_AT_A_TIME:
                found = self._functions.call(function, msgspec.Raw(msgspec.json.encode(request)))
        except Exception as error:
            text = f"{self.interpreter}: {type(error).__name__}: {error}"
            raise RequestRefusedError(text) from error
        return msgspec.json.decode(msgspec.json.encode(found), type=answer)

    def close(self):
        """Do nothing."""

    kill = close


def work_here(monkeypatch):
    def worker(_, environment):
        python = str(environment.python)
        return WorkerHere(python, {"peft": python})

    monkeypatch.setattr("peft_regress.workers.pool.Seat.worker", worker)
