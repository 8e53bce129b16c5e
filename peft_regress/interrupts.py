"""Let SIGTERM and SIGHUP end this process like Ctrl-C, so that no measurement is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class EndingSignal(KeyboardInterrupt):
    """A signal that asks this process to end."""


class Interrupts:
    """Handlers of the signals that end a process; without `install` nothing changes."""

    def __init__(self) -> None:
        self._installed: list[int] = []
        self._owner = 0

    def install(self) -> None:
        """Let each signal interrupt the main thread, unless somebody handles or ignores it."""
        if self._installed or threading.current_thread() is not threading.main_thread():
            return
        self._owner = os.getpid()
        for number in _ENDING:
            # `nohup` ignores SIGHUP on purpose.
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._interrupt)
                self._installed.append(number)

    def hold(self) -> None:
        """Let further signals change nothing, since the process is ending; Ctrl-C still does."""
        for number in self._installed:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Undo `install`."""
        while self._installed:
            signal.signal(self._installed.pop(), signal.SIG_DFL)

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A process that was forked meanwhile ends as if nobody had changed anything.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise EndingSignal(signal.Signals(number).name)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Delay signals until the context ends: torch's C code would lose them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    held = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for number in arrived[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def ending_signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the context."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        yield
    finally:
        interrupts.restore()
