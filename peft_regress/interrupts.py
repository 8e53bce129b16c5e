"""Let SIGTERM and SIGHUP end this process like Ctrl-C, so that no measurement is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

_ENDING: Final[tuple[int, ...]] = (signal.SIGTERM, signal.SIGHUP)


class EndingSignal(KeyboardInterrupt):
    """A signal that asks this process to end."""


@contextlib.contextmanager
def ending_signals_interrupt() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP interrupt the main thread, unless somebody handles or ignores them.

    Gives the signals that do. Once the process is ending, `SIG_IGN` may handle them.
    """
    owner = os.getpid()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            # A process that was forked meanwhile ends as if nobody had changed anything.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise EndingSignal(signal.Signals(number).name)

    is_main = threading.current_thread() is threading.main_thread()
    # `nohup` ignores SIGHUP on purpose.
    free = [one for one in _ENDING if is_main and signal.getsignal(one) is signal.SIG_DFL]
    for number in free:
        signal.signal(number, interrupt)
    try:
        yield free
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


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
