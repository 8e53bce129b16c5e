"""The pytest plugin: options, the fixture `peft_regress`, and the verdict at the run's end.

Under pytest-xdist the workers measure and judge their cases and send each record along with its
test report; the controller joins them, so that verdicts and run file are those of a serial run.
State lives in `config.stash`. Nothing here imports torch before a case is measured.
"""

import contextlib
import queue
import signal
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pytest

from peft_regress.cases import Case
from peft_regress.errors import InputError, PeftRegressError, RefusedAdapterError
from peft_regress.files import is_folder
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.plugin import collection
from peft_regress.plugin.closing_text import RunOutcome, closing_text
from peft_regress.plugin.options import RegressOptions, add_options, set_up_benchmarks
from peft_regress.plugin.session import RegressSession
from peft_regress.report import case_text
from peft_regress.report.terminal import in_log, layout_of
from peft_regress.runs.journal import KeptRecord
from peft_regress.runs.schema import Failure, Measurement, Status, error_record
from peft_regress.text import count_of

_SESSION = pytest.StashKey[RegressSession]()
_COLLECTION = pytest.StashKey[collection.CollectionHooks]()
_KEPT = pytest.StashKey[KeptRecord]()
_PROBLEM = pytest.StashKey[BaseException]()
_OF_TORCH_ITSELF: Final = (
    r"ignore:.torch\.jit\.script_method. is deprecated:DeprecationWarning:torch\.jit\._script"
)
_UNDEFINED: Final = "undefined"
"""The definition of a case in error that has none, here or in the baselines."""
_INTERRUPTED: Final = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)

pytest_addoption = add_options


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Ignore a warning that tells nothing, also where a conftest.py imports the libraries.

    They import bitsandbytes, and that imports torch's compiler, which warns of torch itself.
    """
    early_config.addinivalue_line("filterwarnings", _OF_TORCH_ITSELF)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Parse the options and register the hooks that need this run's state."""
    config.addinivalue_line(
        "markers", "case(task, method, architecture, rank): the case that a test measures"
    )
    left: list[str] = []
    try:
        options = RegressOptions.of(config)
        if config.pluginmanager.hasplugin("benchmark"):
            set_up_benchmarks(config, options.baselines)
        if options.off:
            config.pluginmanager.register(collection.SkippedCases(), "peft_regress_off")
            return
        session = RegressSession(config, options)
        if not session.is_worker and not config.getoption("collectonly"):
            left = session.keeper.prepare()
    except InputError as error:
        raise pytest.UsageError(in_log(str(error))) from None
    collecting = collection.CollectionHooks(options, session.references)
    config.stash[_SESSION] = session
    config.stash[_COLLECTION] = collecting
    config.pluginmanager.register(collecting, "peft_regress_collection")
    # Last, so that its wrappers are first: a record is kept before anything is written to a
    # terminal, which may be gone.
    config.pluginmanager.register(_RunHooks(config, session, collecting, left), "peft_regress_run")


@pytest.fixture
def peft_regress(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Case], Measurement]:
    """Measure a case, judge it by its baseline, and fail the test if it got worse."""
    session = request.config.stash[_SESSION]

    def measure_and_judge(case: Case) -> Measurement:
        try:
            _check_may_measure(request, case)
            kept = session.take_or_measure(case, benchmark)
            problem = None
        except PeftRegressError as error:
            problem = error
        if problem is not None:
            request.node.stash[_PROBLEM] = problem
            # Outside the handler, or pytest would print the error again as its context.
            pytest.fail(in_log(str(problem)), pytrace=False)
        session.keep(kept)
        request.node.stash[_KEPT] = kept
        # Exact and unscaled, for `pytest --junitxml`. A case that repeats another run has that run
        # in place of its accuracy.
        properties = request.node.user_properties
        properties += [(name, metric.value) for name, metric in kept.record.metrics.items()]
        if kept.record.repeated_run is not None:
            properties.append(("repeats", kept.record.repeated_run))
        comparison = session.judge_record(kept.record)
        for red in comparison.red:
            text = case_text(red, comparison, session.layout)
            pytest.fail(in_log(text), pytrace=False)
        return Measurement(record=kept.record)

    return measure_and_judge


def _check_may_measure(request: pytest.FixtureRequest, case: Case) -> None:
    """Raise `InputError` if this worker refused the run, or the test's marker is another case's."""
    refusal = request.config.stash[_COLLECTION].refusal
    if refusal is not None:
        # First: its reason may be the marker itself.
        raise refusal
    if collection.case_of(request.node) != case:
        raise InputError(
            f"{request.node.nodeid} measures {case.id}, but its marker case(...) does not say so. "
            "Take cases and markers from peft_regress.case_params(), one case a test."
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the record along with the test's report, also from a worker to the controller."""
    report = yield
    kept = item.stash.get(_KEPT, None) if report.when == "call" else None
    if report.when != "teardown" and call.excinfo is not None and _KEPT not in item.stash:
        error = item.stash.get(_PROBLEM, call.excinfo.value)
        kept = _not_measured(item, error) if report.failed else None
    if kept is not None:
        # pytest-xdist sends every attribute of a report.
        vars(report)["peft_regress_record"] = msgspec.json.encode(kept).decode()
    case = collection.known_case_of(item)
    if case is not None:
        vars(report)["peft_regress_case"] = case.id
    return report


def _not_measured(item: pytest.Item, error: BaseException) -> KeptRecord | None:
    """Return that the test of a case failed before it measured: else the case would be missing.

    What is wrong use of a new case is recorded as it is once the case is known.
    """
    status: Status = "error"
    while type(error) in {InputError, RefusedAdapterError} and error.__cause__ is not None:
        status = "unsupported" if isinstance(error, RefusedAdapterError) else status
        error = error.__cause__
    session = item.config.stash.get(_SESSION, None)
    with contextlib.suppress(PeftRegressError):  # its marker or the baselines are wrong
        case = collection.case_of(item)
        if session is not None and case is not None:
            session.references()
            return _failed(session, case, Failure.of_case(error), status)
    return None


def _failed(
    session: RegressSession, case: Case, failure: Failure, status: Status = "error"
) -> KeptRecord:
    """Return the record of a case that failed unmeasured, defined as here or as its reference."""
    try:
        definition = session.define(case)
    except Exception:  # noqa: BLE001  (code of the user's; the test has failed of it already)
        old = session.references().get(case.id)
        definition = _UNDEFINED if old is None else old.record.definition
    return KeptRecord(record=error_record(case, definition, failure, status))


@dataclass(eq=False)
class _RunHooks:
    """Gather records, and at the end write the run file and print the verdict."""

    _config: pytest.Config
    _session: RegressSession
    _collection: collection.CollectionHooks
    _left: list[str]
    """Names the journals of runs that died."""
    _opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _signals: list[int] = field(default_factory=list)
    """Those that end the run like Ctrl-C."""
    _started: dict[str, str] = field(default_factory=dict)
    """The case of each test of which something was reported."""
    _outcome: RunOutcome | None = None
    _problems: tuple[str, ...] = ()
    _was_interrupted: bool = False

    def pytest_report_header(self) -> list[str]:
        return [f"peft_regress: {line}" for line in self._left]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Let SIGTERM and SIGHUP end a run with cases like Ctrl-C; a worker's own ends at once."""
        options, has_workers = self._session.options, self._config.getoption("tx", default=None)
        # What workers collect is not known yet.
        may_have = has_workers and (options.was_given or is_folder(options.baselines))
        if not self._session.is_worker and (self._has_cases or may_have):
            self._signals = self._opened.enter_context(ending_signals_interrupt())

    def pytest_unconfigure(self) -> None:
        """Leave the signals as they were."""
        self._opened.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """Keep the record that came with a report."""
        self._take_report(report)
        return (yield)

    def _take_report(self, report: pytest.TestReport) -> None:
        name = getattr(report, "peft_regress_case", None)
        if name is not None:
            self._started[report.nodeid] = name
        encoded = getattr(report, "peft_regress_record", None)
        if encoded is not None:
            self._session.keep(msgspec.json.decode(encoded, type=KeptRecord))
        elif report.when not in {"setup", "call", "teardown"}:
            # The test has killed its worker of pytest-xdist.
            name = self._started.get(report.nodeid)
            if name is not None and name not in self._session.records:
                message = (
                    "the process that measured the case died of it: it crashed, exited or "
                    "was killed"
                )
                failure = Failure(type="WorkerCrash", message=message)
                self._session.keep(_failed(self._session, Case.parse(name), failure))

    @property
    def _has_cases(self) -> bool:
        if self._config.getoption("collectonly"):
            return False
        return bool(self._collection.collected.cases or self._session.records)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_benchmark_compare_machine_info(
        self, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
    ) -> None:
        """Keep pytest-benchmark from warning that a run file names no host."""
        if "peft_regress" in compared_benchmark:
            compared_benchmark["machine_info"] = machine_info

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Write the run file, whatever the end of fixtures or workers raises."""
        for number in self._signals:  # the process is ending
            signal.signal(number, signal.SIG_IGN)
        self._was_interrupted = session.exitstatus in _INTERRUPTED
        try:
            with warnings.catch_warnings():
                # After an interrupt before the timer started, also where warnings are errors.
                warnings.filterwarnings("ignore", "Benchmark fixture was not used")
                return (yield)
        finally:
            if not self._session.is_worker and session.exitstatus != pytest.ExitCode.USAGE_ERROR:
                self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        """Judge and save the run, and fail it if a case is missing."""
        for report in _reports_on_the_way(self._config):
            self._take_report(report)
        if self._has_cases:
            self._session.add_unreached(self._collection.collected.selected)
            coverage = collection.Coverage(
                known=self._session.known_cases(),
                measured=frozenset(self._session.records),
                collected=self._collection.collected,
                before_collection=collection.kept_from_collection(self._config.option),
                after_collection=collection.chosen_from_collected(self._config.option),
                was_interrupted=self._was_interrupted,
            )
            self._outcome = self._session.finish(coverage)
        elif not (self._was_interrupted or self._config.getoption("collectonly")):
            self._problems = tuple(self._session.missed_cases())
        failed = bool(self._problems) if self._outcome is None else self._outcome.failed
        if failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        # pytest's own decision on colour holds: --color, NO_COLOR, FORCE_COLOR, PY_COLORS.
        colour = self._config.get_terminal_writer().hasmarkup
        session, outcome = self._session, self._outcome
        layout = layout_of(colour=colour)
        others = sorted(self._collection.collected.other_matrices.items())
        notes = self._left + [
            f"{count_of(count, 'case')} of the {name} matrix not measured: "
            f"use --regress-matrix {name}"
            for name, count in others
        ]
        if outcome is None:
            text = "\n".join(layout.wrapped(line) for line in (*self._problems, *notes))
        else:
            path, verbose = session.options.save, self._config.get_verbosity() > 0
            saved = None if path is None else session.shown(path)
            text = closing_text(outcome, layout, saved=saved, verbose=verbose, notes=notes)
        if text:
            terminalreporter.section("peft_regress", sep="=")
            terminalreporter.write_line(in_log(text, styles=colour))


def _reports_on_the_way(config: pytest.Config) -> Iterator[pytest.TestReport]:
    """Yield the reports that workers sent before an interrupt, and that nobody has handled."""
    # pytest-xdist's controller reads them from a queue, and leaves it at an interrupt.
    waiting = getattr(config.pluginmanager.getplugin("dsession"), "queue", None)
    while waiting is not None:
        try:
            event, content = waiting.get_nowait()
        except queue.Empty:
            return
        if event == "testreport":
            yield content["rep"]
