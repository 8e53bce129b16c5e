"""What a training computes goes through a run file, and judges the run that repeats it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
from builders import make_run, write_run
from own_training import fine_tune
from own_training import measured as measured_own

from peft_regress.gate import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.measure.known import Known
from peft_regress.runs.run_file import read_run_file

if TYPE_CHECKING:
    from pathlib import Path


def measured(**how: Any) -> Any:
    lora = peft.LoraConfig(r=2, target_modules=["6", "8"])
    return measured_own(fine_tune(lora, steps=6, seeds=2), timed=False, **how)


def test_a_quick_run_is_judged_by_the_run_that_trained(tmp_path: Path) -> None:
    full = read_run_file(write_run(tmp_path / "full.json", make_run(measured()))).run
    (trained,) = full
    known = Known(computation=trained.computation, run_name="full")
    quick = write_run(tmp_path / "quick.json", make_run(measured(known=known)))
    sides = observations_of(full, "full"), observations_of(read_run_file(quick).run, "quick")
    comparison = judge(*sides)
    assert comparison.exit_code == 0
    assert comparison.same_computation == {trained.case.id}
    assert not any(case.reasons for case in comparison.cases)
