"""How far a run is, in one line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.plugin.status_line import Progress
from peft_regress.report.layout import Layout


def progress(*, count=96, done=12, running=1):
    """Return a run of which some cases are done, and some run."""
    found = Progress(cases={f"t{i}": f"shift/lora-r{i}/resnet18" for i in range(count)})
    for i in range(done):
        found.start(f"t{i}")
        found.finish(f"t{i}")
    for i in range(done, done + running):
        found.start(f"t{i}")
    return found


@pytest.mark.parametrize(
    ("running", "width", "line"),
    [
        (1, 100, "12 of 96 cases done, 84 left; now shift/lora-r12/resnet18"),
        (2, 100, "12 of 96 cases done, 84 left; 2 now: shift/lora-r12/resnet18, ..."),
        (0, 100, "12 of 96 cases done, 84 left"),
        (1, 40, "12/96; now shift/lora-r12/resnet18"),
        (1, 30, "12/96; now shift/lora-r12/..."),
    ],
)
def test_the_line_has_counts_and_case_as_far_as_they_fit(running, width, line):
    assert progress(running=running).line(Layout(width=width)) == line
    assert len(line) < width


def test_tests_without_a_case_are_ignored():
    found = progress(count=3, done=1, running=0)
    before = found.line(Layout())
    found.start("other")
    found.finish("other")
    assert found.line(Layout()) == before
    assert found.left == 2


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text(st.characters(), max_size=60), st.integers(20, 120))
def test_the_line_fits_with_any_name_of_a_case(name, width):
    found = Progress(cases={"t": name, "u": "v"})
    found.start("t")
    line = found.line(Layout(width=width, encoding="ascii"))
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < width
