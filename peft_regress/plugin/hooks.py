"""The pytest plugin: options, the fixture `peft_regress`, and the verdict at the run's end.

Under pytest-xdist the workers measure and judge their cases and send each record along with its
test report; the controller joins them, so that verdicts and run file are those of a serial run.
State lives in `config.stash`. Nothing here imports torch before a case is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import Observation
from peft_regress.plugin.closing_text import layout_for, summary_text
from peft_regress.plugin.collection import CollectionHooks, case_id_of, case_of
from peft_regress.plugin.options import RegressOptions, add_options
from peft_regress.plugin.session import RegressSession
from peft_regress.plugin.status_line import ProgressHooks
from peft_regress.report import case_text
from peft_regress.report.export import metric_properties
from peft_regress.report.github import line_in_repository, without_commands
from peft_regress.report.layout import Layout
from peft_regress.runs.schema import SCHEMA_VERSION, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from peft_regress.cases import Case
    from peft_regress.measure.case import Measurement

__all__: list[str] = []

_SESSION = pytest.StashKey[RegressSession]()
_LAYOUT = pytest.StashKey[Layout]()
_RECORD = pytest.StashKey[Record]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the `--regress-...` options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Parse the options and register the hooks that need this run's state."""
    config.addinivalue_line(
        "markers", "case(task, method, architecture, rank): the pairing that a test measures"
    )
    try:
        session = RegressSession(config, RegressOptions.of(config))
    except InputError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_SESSION] = session
    config.stash[_LAYOUT] = layout_for(config, session.options)
    config.pluginmanager.register(CollectionHooks(session), "peft_regress_collection")
    config.pluginmanager.register(_Hooks(session), "peft_regress_session")
    progress = ProgressHooks(config, case_of=case_id_of, guess=session.has_storage)
    config.pluginmanager.register(progress, "peft_regress_progress")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_ControllerHooks(session), "peft_regress_controller")
        # Pairings that share a cost profile go to one worker, unless another way was asked for.
        typed = any(str(word).startswith("--dist") for word in config.invocation_params.args)
        if config.getoption("dist") == "load" and not typed and session.has_storage:
            config.option.dist = "loadgroup"


@pytest.fixture
def peft_regress(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Case], Measurement]:
    """Measure a case, judge it by its baseline, and fail the test where it got worse."""
    session = request.config.stash[_SESSION]

    def measure_and_judge(case: Case) -> Measurement:
        problem = session.refusal
        # Not after a refusal, whose reason may be the marker itself.
        if problem is None and case_of(request.node) != case:
            problem = InputError(
                f"{request.node.nodeid} measures {case.id}, but its marker case(...) does not say "
                "so. Take cases and markers from peft_regress.case_params(), one case a test."
            )
        if problem is None:
            try:
                measurement = _measure(session, case, benchmark)
            except PeftRegressError as error:
                problem = error
        if problem is not None:
            # Outside the handler, or pytest would print the error once more as its context.
            pytest.fail(without_commands(str(problem)), pytrace=False)
        request.node.stash[_RECORD] = measurement.record
        request.node.user_properties.extend(metric_properties(measurement.record))
        observation = Observation(
            record=measurement.record,
            environment=session.environment(),
            machine=session.machine(),
            run_name="this run",
        )
        comparison = judge(
            session.references(),
            {case.id: observation},
            expected=[case.id],
            invocation=session.invocation(),
        )
        for red in comparison.red:
            text = case_text(red, comparison, request.config.stash[_LAYOUT])
            pytest.fail(without_commands(text), pytrace=False)
        return measurement

    return measure_and_judge


def _measure(session: RegressSession, case: Case, benchmark: Any) -> Measurement:
    """Measure with pytest-benchmark's timer where it runs, with a plain loop where it is off."""
    from peft_regress.measure.case import measure, plain_rounds

    benchmark.group = f"{case.task}/{case.architecture}"
    benchmark.extra_info["peft_regress"] = {"schema_version": SCHEMA_VERSION, "case_id": case.id}

    def run_rounds(target: Any, **rounds: Any) -> None:
        if benchmark.disabled:
            # A disabled `pedantic` calls its target once, and the seeds are no matter of timing.
            benchmark.pedantic(lambda: plain_rounds(target, **rounds))
        else:
            benchmark.pedantic(target, **rounds)

    measurement = measure(
        case,
        baselines=session.options.baselines,
        profiles=session.profiles(),
        run_rounds=run_rounds,
        timed=not benchmark.disabled,
        keep_adapters=session.adapters,
    )
    if benchmark.stats is not None:
        session.benchmarks.append(benchmark.stats)
    return measurement


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the record travel with the test's report, from a worker to the controller too."""
    report = yield
    record = item.stash.get(_RECORD, None)
    if report.when == "call" and record is not None:
        # As pytest's own reports do; pytest-xdist carries every attribute along.
        vars(report)["peft_regress_record"] = msgspec.json.encode(record).decode()
    with contextlib.suppress(InputError):
        case = case_of(item)
        if case is not None:
            vars(report)["peft_regress_case"] = case.id
    return report


class _Hooks:
    """What one pytest process, serial, worker or controller, does with records and at its end."""

    def __init__(self, session: RegressSession) -> None:
        self.session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record that came with a report, and where its test stands."""
        name = getattr(report, "peft_regress_case", None)
        if name is not None:
            path, line, _ = report.location
            base = self.session.config.rootpath
            self.session.places[name] = line_in_repository(path, line, base=base)
        encoded = getattr(report, "peft_regress_record", None)
        if encoded is not None:
            record = msgspec.json.decode(encoded, type=Record)
            self.session.records[record.case.id] = record

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        """Make files of `--benchmark-json` and `--benchmark-save` run files as well."""
        self.session.extend_document(output_json)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the run file, and fail the run where a case is missing."""
        workeroutput = getattr(session.config, "workeroutput", None)
        if workeroutput is not None:
            workeroutput["peft_regress_collected"] = sorted(self.session.collected)
            workeroutput["peft_regress_deselected"] = sorted(self.session.deselected)
            workeroutput["peft_regress_selected"] = sorted(self.session.selected)
            workeroutput["peft_regress_other_matrices"] = self.session.other_matrices
            return
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        if not self.session.is_gating:
            collecting = session.config.getoption("collectonly")
            if self.session.was_asked_for and not collecting:
                self.session.problems.append(
                    "a --regress-... option was given, but no test with a case was collected"
                )
                if session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        problem = self.session.finish()
        if problem and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Print the verdict as one table."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return
        # What pytest says on colour is said: --color, NO_COLOR, FORCE_COLOR, PY_COLORS.
        config = terminalreporter.config
        colour = config.get_terminal_writer().hasmarkup
        text = summary_text(self.session, layout_for(config, self.session.options, colour=colour))
        if text:
            terminalreporter.section("peft_regress", sep="=")
            terminalreporter.write_line(without_commands(text))
        for line in self.session.annotation_lines():
            terminalreporter.write_line(line)


class _ControllerHooks:
    """What the controller of pytest-xdist learns from its workers."""

    def __init__(self, session: RegressSession) -> None:
        self.session = session

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker how wide the terminal is: what its tests say is printed there."""
        node.workerinput["peft_regress_layout"] = dataclasses.asdict(node.config.stash[_LAYOUT])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker collected and was to run."""
        output = getattr(node, "workeroutput", {})
        self.session.collected |= set(output.get("peft_regress_collected", ()))
        self.session.deselected |= set(output.get("peft_regress_deselected", ()))
        self.session.selected |= set(output.get("peft_regress_selected", ()))
        # Every worker collects everything, so each has the same counts.
        self.session.other_matrices |= output.get("peft_regress_other_matrices", {})
