"""How far a run is and how long it may take, without a claim before there is evidence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.plugin.progress import Progress
from peft_regress.report.layout import Layout
from peft_regress.report.pace import Pace, seconds_left, time_left

A, B, C, D = "shift/a/net", "shift/b/net", "shift/c/wide", "shift/d/wide"


@pytest.mark.parametrize(
    ("left", "done", "before", "workers", "seconds"),
    [
        pytest.param({A: 0, B: 0}, {}, {}, 1, None, id="nothing-is-known"),
        pytest.param({A: 0, B: 0}, {}, {A: 3.0, B: 5.0}, 1, 8, id="as-the-last-time"),
        pytest.param({A: 1, B: 0}, {}, {A: 3.0, B: 5.0}, 1, 7, id="less-what-it-has-run"),
        pytest.param({A: 9, B: 0}, {}, {A: 3.0, B: 5.0}, 1, 5, id="never-less-than-nothing"),
        pytest.param({B: 0}, {A: 6.0}, {A: 3.0, B: 5.0}, 1, 10, id="twice-as-slow-this-time"),
        pytest.param({B: 0, C: 0}, {A: 4.0}, {}, 1, 8, id="as-the-mean-of-those-done"),
        pytest.param(
            {B: 0, D: 0}, {A: 1.0, C: 7.0}, {}, 1, 8, id="as-those-of-the-same-architecture"
        ),
        pytest.param({A: 0, B: 0}, {}, {A: 3.0}, 1, 6, id="one-alone-is-known"),
        pytest.param({A: 0, B: 0, C: 0}, {D: 2.0}, {}, 3, 2, id="three-workers"),
        pytest.param({A: 0, B: 0}, {}, {A: 9.0, B: 1.0}, 2, 9, id="the-longest-is-waited-for"),
        pytest.param({A: 0}, {B: 0.0}, {A: 2.0, B: 0.0}, 1, 2, id="no-time-is-no-scale"),
    ],
)
def test_time_left(left, done, before, workers, seconds):
    assert seconds_left(left, done, before, workers=workers) == seconds


times = st.dictionaries(st.sampled_from([A, B, C, D]), st.floats(0, 1e6), max_size=4)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(times, times, times, st.integers(1, 8))
def test_any_known_case_gives_an_estimate_and_workers_never_lengthen_it(
    left, done, before, workers
):
    one, many = (seconds_left(left, done, before, workers=n) for n in (1, workers))
    if not left:
        assert one == 0
    elif not done and not before:
        assert one is None
    else:
        assert 0 <= many <= one + 1e-6


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "about 5 s"),
        (41, "about 40 s"),
        (57.4, "about 55 s"),
        (57.6, "about 1 min"),
        (770, "about 13 min"),
        (3600, "about 1 h 0 min"),
        (4199, "about 1 h 10 min"),
    ],
)
def test_a_time_reads_as_people_give_it(seconds, words):
    assert time_left(seconds) == words


def progress(*, count: int = 96, done: int = 12, running: int = 1) -> Progress:
    """Return a run of which some cases took 8 seconds each, and some run since second 100."""
    names = {f"t{i}": f"shift/lora-r{i}/resnet18" for i in range(count)}
    found = Progress(cases=names)
    for i in range(done):
        found.start(f"t{i}", 8.0 * i)
        found.spend(f"t{i}", 3.0)
        found.spend(f"t{i}", 5.0)
        found.finish(f"t{i}")
    for i in range(done, done + running):
        found.start(f"t{i}", 100.0)
    return found


@pytest.mark.parametrize(
    ("running", "width", "line"),
    [
        (1, 100, "12 of 96 cases done, 84 left, about 11 min; now shift/lora-r12/resnet18"),
        (2, 100, "12 of 96 cases done, 84 left, about 11 min; 2 now: shift/lora-r12/resnet18, ..."),
        (0, 100, "12 of 96 cases done, 84 left, about 11 min"),
        (1, 60, "12/96, about 11 min; now shift/lora-r12/resnet18"),
        (1, 40, "12/96, about 11 min; now shift/lora-..."),
        (1, 20, "12/96, about 11 ..."),
    ],
)
def test_the_line_has_counts_time_and_case_as_far_as_they_fit(running, width, line):
    assert progress(running=running).line(100.0, Layout(width=width)) == line
    assert len(line) < width


def test_before_the_first_case_ends_there_is_no_estimate():
    assert progress(done=0).line(100.0, Layout()) == (
        "0 of 96 cases done, 96 left; now shift/lora-r0/resnet18"
    )


def test_tests_without_a_case_are_ignored():
    found = progress(count=3, done=1, running=0)
    before = found.line(0.0, Layout())
    found.start("other", 0.0)
    found.spend("other", 1e9)
    found.finish("other")
    assert found.line(0.0, Layout()) == before
    assert found.left == 2


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text(st.characters(), max_size=60), st.integers(20, 120))
def test_the_line_fits_with_any_name_of_a_case(name, width):
    found = Progress(cases={"t": name, "u": "v"})
    found.start("t", 0.0)
    line = found.line(1.0, Layout(width=width, encoding="ascii"))
    assert line.isprintable()
    assert line.isascii()
    assert len(line) < width


def test_a_pace_needs_two_cases_and_ends_before_the_last():
    pace = Pace()
    said = [pace.left(done, 4, 100.0 + 30 * done) for done in (1, 2, 3, 4)]
    assert said == ["", ", about 1 min left", ", about 30 s left", ""]
