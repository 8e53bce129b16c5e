"""The injected faults that the fuzzer is tried with."""

import msgspec
import power
import pytest
from fault_catalogue import FAULTS
from power import Tried, line, sentence

FOUND = Tried(fault="lora-b-not-zero", state="found", seconds=1.5, check="identity", message="off")
MISSED = Tried(fault="lora-a-gaussian", state="missed", seconds=60.0)


def test_the_command_says_what_it_found_and_fails_on_a_surprise(monkeypatch, capsys):
    monkeypatch.setattr(power, "try_all", lambda faults, **_: [FOUND, MISSED][: len(faults)])
    assert power.main(["--only", "dora-*"]) == 0
    assert sentence([FOUND, MISSED]) in capsys.readouterr().out
    assert line(FOUND) == "found      1.5 s  lora-b-not-zero: identity: off"
    missed = msgspec.structs.replace(FOUND, state="missed")
    monkeypatch.setattr(power, "try_all", lambda *_, **__: [missed])
    assert power.main([]) == 1
    assert "Found: 0 of 1 faults" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no fault of peft matches 'nothing'"):
        power.main(["--only", "nothing"])


@pytest.mark.slow
def test_a_fault_is_found_and_without_a_fault_nothing_is(monkeypatch):
    found = power.tried("lora-b-not-zero", seconds=60, seed=0)
    assert (found.state, found.check) == ("found", "identity")
    fault = FAULTS["lora-b-not-zero"]
    harmless = {**FAULTS, fault.name: type(fault)(**{**vars(fault), "replacement": _unchanged})}
    monkeypatch.setattr(power, "FAULTS", harmless)
    assert power.tried("lora-b-not-zero", seconds=5, seed=0).state == "missed"


def _unchanged(original, *args, **keywords):
    return original(*args, **keywords)
