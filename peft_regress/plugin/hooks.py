"""The pytest plugin: options, the fixture `peft_regress`, and the verdict at the run's end.

Under pytest-xdist the workers measure and judge their cases and send each record along with its
test report; the controller joins them, so that verdicts and run file are those of a serial run.
State lives in `config.stash`. Nothing here imports torch before a case is measured.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.imports import drop_noise
from peft_regress.plugin.closing_text import annotation_lines, closing_text, layout_for, left_out
from peft_regress.plugin.collection import CollectionHooks, case_id_of, case_of
from peft_regress.plugin.coverage import Coverage
from peft_regress.plugin.narrowing import narrowing_of
from peft_regress.plugin.options import RegressOptions, add_options
from peft_regress.plugin.session import RegressSession
from peft_regress.plugin.status_line import ProgressHooks
from peft_regress.report import case_text
from peft_regress.report.export import metric_properties
from peft_regress.report.github import in_log, line_in_log, line_in_repository
from peft_regress.report.layout import Layout
from peft_regress.runs.run_file import run_document
from peft_regress.runs.schema import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from peft_regress.cases import Case
    from peft_regress.measure import Measurement
    from peft_regress.plugin.outcome import RunOutcome
    from peft_regress.report.verdict.annotations import SourceLine
    from peft_regress.runs.schema import Run

_SESSION = pytest.StashKey[RegressSession]()
_COLLECTION = pytest.StashKey[CollectionHooks]()
_LAYOUT = pytest.StashKey[Layout]()
_RECORD = pytest.StashKey[Record]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--regress-...` options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Parse the options and register the hooks that need this run's state."""
    drop_noise()
    config.addinivalue_line(
        "markers", "case(task, method, architecture, rank): the case that a test measures"
    )
    try:
        options = RegressOptions.of(config)
    except InputError as error:
        raise pytest.UsageError(line_in_log(str(error))) from None
    session = RegressSession(config, options)
    collection = CollectionHooks(options, session.references)
    config.stash[_SESSION] = session
    config.stash[_COLLECTION] = collection
    config.stash[_LAYOUT] = layout_for(config, options)
    progress = ProgressHooks(config, case_of=case_id_of, guess=session.has_storage)
    register = config.pluginmanager.register
    register(collection, "peft_regress_collection")
    register(_RunHooks(config, session, collection), "peft_regress_run")
    register(progress, "peft_regress_progress")
    if config.pluginmanager.hasplugin("xdist"):
        # Cases that share a cost profile go to one worker, unless the user chose another way.
        typed = any(str(word).startswith("--dist") for word in config.invocation_params.args)
        if config.getoption("dist") == "load" and not typed and session.has_storage:
            config.option.dist = "loadgroup"


@pytest.fixture
def peft_regress(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Case], Measurement]:
    """Measure a case, judge it by its baseline, and fail the test if it got worse."""
    session = request.config.stash[_SESSION]

    def measure_and_judge(case: Case) -> Measurement:
        try:
            _check_may_measure(request, case)
            measurement = session.measure(case, benchmark)
            problem = None
        except PeftRegressError as error:
            problem = error
        if problem is not None:
            # Outside the handler, or pytest would print the error again as its context.
            pytest.fail(in_log(str(problem)), pytrace=False)
        request.node.stash[_RECORD] = measurement.record
        request.node.user_properties.extend(metric_properties(measurement.record))
        comparison = session.judge_record(measurement.record)
        for red in comparison.red:
            text = case_text(red, comparison, request.config.stash[_LAYOUT])
            pytest.fail(in_log(text), pytrace=False)
        return measurement

    return measure_and_judge


def _check_may_measure(request: pytest.FixtureRequest, case: Case) -> None:
    """Raise `InputError` if this worker refused the run, or the test's marker is another case's."""
    refusal = request.config.stash[_COLLECTION].refusal
    if refusal is not None:
        # First: its reason may be the marker itself.
        raise refusal
    if case_of(request.node) != case:
        msg = (
            f"{request.node.nodeid} measures {case.id}, but its marker case(...) does not say so. "
            "Take cases and markers from peft_regress.case_params(), one case a test."
        )
        raise InputError(msg)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send the record along with the test's report, also from a worker to the controller."""
    report = yield
    record = item.stash.get(_RECORD, None)
    if report.when == "call" and record is not None:
        # pytest-xdist sends every attribute of a report.
        vars(report)["peft_regress_record"] = msgspec.json.encode(record).decode()
        vars(report)["peft_regress_imported"] = item.config.stash[_SESSION].imported
    name = case_id_of(item)
    if name is not None:
        vars(report)["peft_regress_case"] = name
    return report


class _RunHooks:
    """Gather records, and at the end write the run file and print the verdict."""

    def __init__(
        self, config: pytest.Config, session: RegressSession, collection: CollectionHooks
    ) -> None:
        self._config = config
        self._session = session
        self._collection = collection
        self._records: dict[str, Record] = {}
        self._source_lines: dict[str, SourceLine] = {}
        self._outcome: RunOutcome | None = None
        self._problems: tuple[str, ...] = ()
        # Asked for after the last test alone, and made once.
        self._coverage = functools.cache(self._make_coverage)
        self._run = functools.cache(self._make_run)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record that came with a report, and the source line of its test."""
        name = getattr(report, "peft_regress_case", None)
        if name is not None:
            path, line, _ = report.location
            found = line_in_repository(path, line, base=self._config.rootpath)
            self._source_lines[name] = found
        encoded = getattr(report, "peft_regress_record", None)
        if encoded is not None:
            record = msgspec.json.decode(encoded, type=Record)
            self._session.add_imported(vars(report)["peft_regress_imported"])
            self._records[record.case.id] = record

    @property
    def _has_cases(self) -> bool:
        if self._config.getoption("collectonly"):
            return False
        return bool(self._collection.collected.cases or self._records)

    def _make_coverage(self) -> Coverage:
        return Coverage(
            known=self._session.known_cases(),
            measured=frozenset(self._records),
            collected=self._collection.collected,
            narrowing=narrowing_of(self._config),
        )

    def _make_run(self) -> Run:
        return self._session.run_of(self._coverage(), self._records)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Make files of `--benchmark-json` and `--benchmark-save` run files as well."""
        if self._has_cases:
            output_json.update(run_document(self._run(), output_json))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the run file, and fail the run if a case is missing."""
        is_worker = hasattr(self._config, "workerinput")
        if is_worker or session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        if self._has_cases:
            self._outcome = self._session.finish(self._run(), self._coverage())
        elif self._session.options.was_given and not self._config.getoption("collectonly"):
            self._problems = (
                "a --regress-... option was given, but no test with a case was collected",
            )
        failed = bool(self._problems) if self._outcome is None else self._outcome.failed
        if failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Print the verdict as one table."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        # pytest's own decision on colour holds: --color, NO_COLOR, FORCE_COLOR, PY_COLORS.
        colour = self._config.get_terminal_writer().hasmarkup
        session, outcome = self._session, self._outcome
        layout = layout_for(self._config, session.options, colour=colour)
        notes = left_out(self._collection.collected.other_matrices)
        if outcome is None:
            text = "\n".join(layout.wrapped(line) for line in (*self._problems, *notes))
        else:
            saved = session.options.save
            text = closing_text(
                outcome,
                layout,
                saved=None if saved is None else session.shown(saved),
                verbose=self._config.get_verbosity() > 0,
                notes=notes,
            )
        if text:
            terminalreporter.section("peft_regress", sep="=")
            terminalreporter.write_line(in_log(text, styles=colour))
        if outcome is not None:
            for line in annotation_lines(outcome, self._source_lines):
                terminalreporter.write_line(line)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist how wide the controller's terminal is."""
        node.workerinput["peft_regress_layout"] = dataclasses.asdict(node.config.stash[_LAYOUT])
