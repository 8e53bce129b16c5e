"""Show progress below pytest's own output on a terminal.

The line is below the cursor. It is erased before pytest writes and drawn again afterwards, so that
pytest's own output does not change. No thread refreshes it, since a thread would disturb timing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Final

import pytest

from peft_regress.report.layout import Layout, cells
from peft_regress.report.terminal import layout_of
from peft_regress.text import clean

_CASE_IN_NAME: Final = re.compile(r"\[([^/\[\]]+/[^/\[\]]+/[^/\[\]]+)\]")

# Move down one line, scrolling where there is none (IND), and up again; then draw below and return.
_DRAW: Final = "\x1bD\x1b[A\x1b7\x1b[B\r{}\x1b[K\x1b8"
_ERASE: Final = "\x1b7\x1b[B\r\x1b[2K\x1b8"


class ProgressHooks:
    """The hooks that follow a run; under pytest-xdist, in the controller."""

    def __init__(
        self,
        config: pytest.Config,
        *,
        case_of: Callable[[pytest.Item], str | None],
        guess: bool,
    ) -> None:
        """Follow the run of `config`.

        case_of: returns the case id of a test, None for a test without a case. guess: whether a
        test counts as a case by its name if only its name is known, as of a worker's tests.
        """
        self._config = config
        self._case_of = case_of
        self._guess = guess
        self._progress = Progress()
        self._screen: pytest.TerminalReporter | None = None
        self._is_drawn = False

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Find the terminal: earlier it is not known."""
        self._screen = _screen_of(self._config)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take the cases that this process will run."""
        named = ((item.nodeid, self._case_of(item)) for item in session.items)
        self._progress.cases.update((name, case) for name, case in named if case is not None)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Iterable[str]) -> None:
        """Take the cases of a worker: every worker collects all of them."""
        found = ((name, _CASE_IN_NAME.search(name)) for name in ids if self._guess)
        self._progress.cases.update((name, match[1]) for name, match in found if match)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self) -> None:
        """Erase the line before pytest-xdist reports a worker that died."""
        self._erase()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> Generator[None, None, None]:
        """Show which case starts."""
        self._erase()
        yield
        self._progress.start(nodeid)
        self._draw()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """Count a case whose worker died: pytest-xdist reports nothing more of it."""
        self._erase()
        yield
        if report.when not in {"setup", "call", "teardown"}:
            self._progress.finish(report.nodeid)
        self._draw()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logfinish(self, nodeid: str) -> Generator[None, None, None]:
        """Count a finished case."""
        self._erase()
        yield
        self._progress.finish(nodeid)
        self._draw()

    @pytest.hookimpl(tryfirst=True)
    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        self._leave()

    @pytest.hookimpl(tryfirst=True)
    def pytest_internalerror(self) -> None:
        """Erase the line before the traceback."""
        self._leave()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Erase the line."""
        self._leave()

    def _leave(self) -> None:
        self._erase()
        self._screen = None

    def _draw(self) -> None:
        if self._screen is not None and self._progress.cases and self._progress.left:
            layout = layout_of(colour=False)
            line = self._progress.line(layout)
            self._screen.write_raw(_DRAW.format(line), flush=True)
            self._is_drawn = True

    def _erase(self) -> None:
        if self._screen is not None and self._is_drawn:
            self._screen.write_raw(_ERASE, flush=True)
            self._is_drawn = False


def _screen_of(config: pytest.Config) -> pytest.TerminalReporter | None:
    """Return the terminal to show progress on; None if it would disturb or be stored."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    option = config.getoption
    logs = config.pluginmanager.hasplugin("logging")  # unless pytest runs with -p no:logging
    # The tests' prints, live logs and the debugger write between pytest's own lines.
    shared = (
        option("capture") == "no"
        or option("usepdb")
        or option("trace")
        or option("setupshow")
        or (logs and (config.getini("log_cli") or option("log_cli_level")))
    )
    kept = os.environ.get("CI") or os.environ.get("BUILD_NUMBER")
    if reporter is None or not reporter.isatty or hasattr(config, "workerinput"):
        return None
    if shared or kept or reporter.verbosity < 0 or os.environ.get("TERM") == "dumb":
        return None
    return reporter


@dataclass
class Progress:
    """How far a run is."""

    cases: dict[str, str] = field(default_factory=dict)
    """Case ids by the name of their test."""
    running: list[str] = field(default_factory=list)
    """The tests that run, in the order of their start."""
    done: set[str] = field(default_factory=set)
    """The ids of the finished cases."""

    def start(self, test: str) -> None:
        """Note that a test starts. Tests without a case are ignored."""
        if test in self.cases:
            self.running.append(test)

    def finish(self, test: str) -> None:
        """Note that a test has finished."""
        if test in self.cases:
            self.running = [each for each in self.running if each != test]
            self.done.add(self.cases[test])

    @property
    def left(self) -> int:
        """Return how many cases have not finished."""
        return len(self.cases) - len(self.done)

    def line(self, layout: Layout) -> str:
        """Return one line that fits the width; counts come first, since the end may be cut."""
        done, count, running = len(self.done), len(self.cases), len(self.running)
        first = clean(self.cases[self.running[0]]) if running else ""
        which = f"{running} now: {first}, ..." if running > 1 else f"now {first}"
        counts = (f"{done} of {count} cases done, {self.left} left", f"{done}/{count}")
        lines = [f"{text}; {which}" if running else text for text in counts]
        fitting = (line for line in lines if cells(line) < layout.width)
        return next(fitting, None) or _cut(lines[-1], layout.width - 1)


def _cut(line: str, width: int) -> str:
    end = "..."
    while cells(line) + len(end) > width:
        line = line[:-1]
    return f"{line}{end}"
