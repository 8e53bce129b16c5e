"""Signals that end a run: also one that comes while a library is imported."""

import signal

import pytest

from peft_regress.interrupts import EndingSignal, ending_signals_interrupt, held_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_held_signal_interrupts_afterwards(name):
    """C code that imports a module drops what a handler raises there."""
    number = signal.Signals[name]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    done = []

    @held_signals()
    def work():
        signal.raise_signal(number)
        done.append("all")

    try:
        with ending_signals_interrupt():
            handler = signal.getsignal(number)
            with pytest.raises(KeyboardInterrupt) as raised:
                work()
            assert signal.getsignal(number) is handler
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, hangup)
    assert done == ["all"]
    assert isinstance(raised.value, EndingSignal) == (name != "SIGINT")
