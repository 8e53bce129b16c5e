"""Progress on a terminal: it comes and goes without a trace in what pytest prints."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screen import Screen, Terminal

from peft_regress.plugin.status_line import Progress
from peft_regress.report.layout import Layout

# Without the gate, whose measuring takes seconds.
CONFTEST = """
import pytest
from peft_regress.plugin.status_line import ProgressHooks

def pytest_configure(config):
    def case_of(item):
        return item.callspec.id if hasattr(item, "callspec") else None
    config.pluginmanager.register(ProgressHooks(config, case_of=case_of, guess=True))
"""
SUITE = """
import os, pytest, time

def test_plain():
    pass

@pytest.mark.parametrize("case", [f"shift/a-r{i}/net" for i in range(4)])
def test_case(case):
    print("printed by a test")
    time.sleep(0.01)
    if case == os.environ.get("FAILS"):
        exec(os.environ["HOW"])
"""
FIRST = "0 of 4 cases done, 4 left; now shift/a-r0/net"


def slow(*values):
    """Run it in CI only: each starts a process in a terminal of its own."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def suite(tmp_path, monkeypatch):
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path


def command(*arguments):
    plugins = ["-p", "no:peft_regress", "-p", "no:benchmark", "-p", "no:hypothesispytest"]
    return [sys.executable, "-m", "pytest", *plugins, *arguments]


def shown_by(suite, *arguments, **environment):
    terminal = Terminal(rows=8)
    terminal.run(*command(*arguments), cwd=suite, environment=environment)
    return terminal


def lines_of_progress(terminal):
    """Return what the line said, each time that it said something new."""
    said = [line for moment in terminal.moments() for line in moment if " cases done, " in line]
    return list(dict.fromkeys(said))


def without_times(lines):
    return [re.sub(r"[0-9.]+s\b", "#s", line).strip("= ") for line in lines]


def test_the_line_says_how_many_are_done_and_which_case_runs(suite):
    said = lines_of_progress(shown_by(suite))
    assert said[0].startswith("0 of 4 cases done, 4 left")
    assert FIRST in said
    assert "1 of 4 cases done, 3 left; now shift/a-r1/net" in said
    assert "3 of 4 cases done, 1 left; now shift/a-r3/net" in said


FAILS = {"FAILS": "shift/a-r1/net", "HOW": "raise ValueError('too bad')"}


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ((), {}),
        slow(("-v",), {}),
        (("-vv", "--color=yes"), FAILS),
        slow(("-x",), FAILS),
        ((), {**FAILS, "HOW": "raise KeyboardInterrupt"}),
        slow((), {**FAILS, "HOW": "import warnings; warnings.warn('look out')"}),
        slow(("-n", "2"), {}),
        slow(("-p", "no:cacheprovider"), {}),
    ],
    ids=["dots", "names", "failure", "first-failure", "interrupt", "warning", "xdist", "no-cache"],
)
def test_in_the_end_the_screen_is_as_without_the_line(suite, arguments, environment):
    seen = shown_by(suite, *arguments, **environment)
    unseen = shown_by(suite, *arguments, **environment, CI="1")
    assert lines_of_progress(seen)
    assert "cases done" not in unseen.output
    assert without_times(seen.screen()) == without_times(unseen.screen())


def test_under_xdist_it_says_how_many_run_and_counts_each_case_once(suite):
    said = lines_of_progress(shown_by(suite, "-n", "2"))
    assert any(re.search(r"; 2 now: shift/a-r\d/net, \.\.\.$", line) for line in said)
    assert all(" of 4 cases done" in line for line in said)
    assert any(line.startswith("3 of 4 cases done, 1 left") for line in said)


def test_a_worker_that_dies_leaves_no_line_behind_and_its_case_is_done(suite):
    seen = shown_by(suite, "-n", "2", FAILS="shift/a-r1/net", HOW="os._exit(1)")
    screen = seen.screen()
    assert not any("cases done" in line for line in screen)
    assert any("node down" in line for line in screen)
    last = lines_of_progress(seen)[-1]
    assert last.startswith("3 of 4 cases done, 1 left")
    assert "a-r1" not in last


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("-q",), {}),
        (("-s",), {}),
        slow(("-o", "log_cli=true"), {}),
        slow(("--setup-show",), {}),
        slow(("-p", "no:terminal"), {}),
        ((), {"CI": "true"}),
        ((), {"TERM": "dumb"}),
    ],
)
def test_where_it_would_disturb_or_be_kept_there_is_no_line(suite, arguments, environment):
    assert "\x1b7" not in shown_by(suite, *arguments, **environment).output


def test_in_a_pipe_and_in_a_suite_without_cases_there_is_no_line(suite):
    done = subprocess.run(command("--color=yes"), cwd=suite, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"\x1b7" not in done.stdout
    assert "\x1b7" not in shown_by(suite, "-k", "plain").output


def test_without_pytest_s_logging_there_is_a_line(suite):
    assert FIRST in lines_of_progress(shown_by(suite, "-p", "no:logging"))


def test_the_screen_of_these_tests_does_what_terminals_do():
    screen = Screen(rows=3, columns=5)
    screen.feed("abcdefg\r\nhi\x1bD\x1b[A\x1b7\x1b[B\rnote\x1b[K\x1b8!")
    assert screen.text == ["abcde", "fg", "hi!", "note"]
    screen.feed("\x1b7\x1b[B\r\x1b[2K\x1b8?\x1b[31mx\x1b[0m")
    assert screen.text == ["abcde", "fg", "hi!?x"]
    with pytest.raises(ValueError, match="unknown"):
        screen.feed("\x1b[2J")


# --- the line itself -------------------------------------------------------------------------


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
    line = found.line(Layout(width=width))
    assert line.isprintable()
    assert len(line) < width
