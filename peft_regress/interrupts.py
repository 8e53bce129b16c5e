"""Let SIGTERM and SIGHUP end this process as Ctrl-C does, so that it can keep what it measured."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

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
        """Let a further signal change nothing: the process is ending already."""
        for number in self._installed:
            signal.signal(number, lambda *_: None)

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
def ending_signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt what runs in the context."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        yield
    finally:
        interrupts.restore()
