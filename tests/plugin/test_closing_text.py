"""The end of a run: how a terminal shows it, and what it says besides the verdict."""

import sys

import pytest
from builders import LORA, VALUES, make_record, make_run
from screen import Terminal
from stub_measuring import InnerProject

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


@pytest.mark.slow
def test_a_terminal_shows_the_verdict_in_colour_and_at_its_width(stubbed):
    terminal = Terminal(columns=40)
    folder = InnerProject(stubbed).folder
    terminal.run(sys.executable, "-m", "pytest", "--regress-save=run.json", cwd=folder)
    shown = "\n".join(terminal.screen()).partition("= peft_regress =")[2]
    assert shown.index("new in 8 cases: no accepted") < shown.index("INCOMPLETE: not")
    case = "\n".join(terminal.screen()).partition("shift/head/tiny: new\n")[2].split("-----")[0]
    assert max(map(len, case.splitlines())) <= 40
    assert "\x1b[1;33mINCOMPLETE: not everything expected was\x1b[0m" in terminal.output
