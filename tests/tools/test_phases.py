"""The tool that tells where the time of a run goes."""

from __future__ import annotations

import types

import phases

from peft_regress.cases import Case


def test_a_second_counts_for_the_innermost_phase_alone() -> None:
    times = iter([0.0, 1.0, 4.0, 9.0])
    clock = phases.Clock(now=lambda: next(times))
    clock.enter(phases.REST)
    clock.enter(phases.TRAINING)
    clock.leave()
    clock.leave()
    assert clock.seconds == {phases.REST: 1 + 5, phases.TRAINING: 3}


def test_a_wrapped_function_ends_its_phase_when_it_raises() -> None:
    def fail(amount: int) -> None:
        raise ValueError(amount)

    clock, owner = phases.Clock(), types.SimpleNamespace(fail=fail)
    clock.wrap(owner, "fail", lambda amount: phases.SVD if amount else phases.REST)
    clock.enter(phases.TRAINING)
    try:
        owner.fail(1)
    except ValueError:
        assert clock.running == phases.TRAINING
    assert clock.seconds.keys() == {phases.TRAINING, phases.SVD}


def test_the_table_has_a_column_for_each_architecture_and_rows_that_add_up() -> None:
    found = {
        Case.parse("shift/full/resnet18"): {phases.TRAINING: 2.0, phases.REST: 1.0},
        Case.parse("shift/head/resnet18"): {phases.TRAINING: 1.0},
        Case.parse("shift/head/mobilenet_v2"): {phases.SVD: 0.5},
    }
    assert phases.table(found, by="architecture").splitlines() == [
        "| processor seconds | resnet18 | mobilenet_v2 | all |",
        "| --- | --- | --- | --- |",
        "| training | 3.0 | 0.0 | 3.0 |",
        "| GaLore's SVD in it | 0.0 | 0.5 | 0.5 |",
        "| the rest | 1.0 | 0.0 | 1.0 |",
        "| all but training | 1.0 | 0.0 | 1.0 |",
        "| all | 4.0 | 0.5 | 4.5 |",
    ]
