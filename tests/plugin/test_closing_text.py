"""What the end of a run says besides its verdict."""

import pytest
from builders import LORA, VALUES, make_record, make_run

from peft_regress.gate.comparison import Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.plugin.closing_text import RunOutcome, closing_text
from peft_regress.report.layout import PLAIN

UNTIMED = {name: value for name, value in VALUES.items() if name != "step_seconds"}
EXPORTED = {"peak_bytes": 10**7, "edge_train_bytes": 10**7}


@pytest.mark.parametrize(
    ("metrics", "is_said"), [(VALUES, False), (UNTIMED, True), (EXPORTED, False)]
)
def test_that_a_timer_was_off_is_said_where_something_trained_without_it(metrics, is_said):
    run = make_run(make_record(LORA, metrics))
    comparison = judge({}, observations_of(run, "this run"), invocation=Invocation(strict=False))
    outcome = RunOutcome(run=run, comparison=comparison)
    text = closing_text(outcome, PLAIN, saved=None, verbose=False, notes=())
    assert ("times: not measured" in text) == is_said
