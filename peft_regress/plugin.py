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

from peft_regress.config import RegressOptions, add_options
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.export import metric_properties
from peft_regress.gate import FAILING, INCOMPLETE, UNACCEPTED, Observation, judge_case
from peft_regress.github import place_in_repository, without_commands
from peft_regress.look import Look
from peft_regress.matrix import DEFAULT_MATRIX, check_matrix, shard_of
from peft_regress.records import SCHEMA_VERSION, Case, Record
from peft_regress.session import RegressSession
from peft_regress.status_line import ProgressHooks
from peft_regress.summary import failure_text, look_in, summary_text

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from peft_regress.measure import Measurement

__all__: list[str] = []

_SESSION = pytest.StashKey[RegressSession]()
_LOOK = pytest.StashKey[Look]()
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
    config.stash[_LOOK] = look_in(config, session.options)
    config.pluginmanager.register(_Hooks(session), "peft_regress_session")
    progress = ProgressHooks(config, case_of=_case_id_of, guess=session.has_storage)
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
        if problem is None and _case_of(request.node) != case:
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
        verdict = judge_case(
            case.id,
            session.references().get(case.id),
            Observation(
                record=measurement.record,
                environment=session.environment(),
                machine=session.machine(),
                origin="this run",
            ),
        )
        failing = FAILING | INCOMPLETE | (UNACCEPTED if session.options.strict else frozenset())
        if verdict.verdict in failing:
            look = request.config.stash[_LOOK]
            text = failure_text(session, verdict, measurement.record, look)
            pytest.fail(without_commands(text), pytrace=False)
        return measurement

    return measure_and_judge


def _measure(session: RegressSession, case: Case, benchmark: Any) -> Measurement:
    """Measure with pytest-benchmark's timer where it runs, with a plain loop where it is off."""
    from peft_regress.measure import measure, plain_rounds

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
        case = _case_of(item)
        if case is not None:
            vars(report)["peft_regress_case"] = case.id
    return report


def _case_of(item: pytest.Item) -> Case | None:
    """Return the pairing that a test measures by its marker, or None for an ordinary test."""
    marker = item.get_closest_marker("case")
    if marker is None or "peft_regress" not in getattr(item, "fixturenames", ()):
        # A marker of that name in a suite that has nothing to do with this plugin.
        return None
    try:
        if marker.args:
            msg = f"{item.nodeid}: marker case(...) takes task, method, architecture, rank by name"
            raise InputError(msg)
        return msgspec.convert(marker.kwargs, Case)
    except msgspec.ValidationError as error:
        msg = f"{item.nodeid}: marker case(...): {error}"
        raise InputError(msg) from None


def _case_id_of(item: pytest.Item) -> str | None:
    with contextlib.suppress(InputError):
        case = _case_of(item)
        return None if case is None else case.id
    return None


class _Hooks:
    """The hooks of one pytest process, serial, worker or controller."""

    def __init__(self, session: RegressSession) -> None:
        self.session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Note what was collected before anything is deselected, then take this shard's part."""
        try:
            self._keep_matrix(config, items)
            cases = self._mark(items)
        except InputError as error:
            self._refuse(config, error)
            return
        self.session.collected = set(cases)
        if self.session.options.shard is not None and cases:
            self._keep_shard(config, items, list(cases.values()))

    def _keep_matrix(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the cases of other matrices: `benchmarks/` holds the tests of all of them."""
        if self.session.options.matrix != DEFAULT_MATRIX:
            # Here, where every conftest.py has registered what it has.
            check_matrix(self.session.options.matrix)
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            try:
                case = _case_of(item)
            except InputError:
                case = None  # `_mark` says what is wrong with it
            mine = case is None or self.session.is_of_matrix(case)
            (kept if mine else dropped).append(item)
            if case is not None and not mine:
                self.session.note_left_out(case)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    def _mark(self, items: list[pytest.Item]) -> dict[str, Case]:
        """Return the cases by id, after giving each of their tests what it needs."""
        cases: dict[str, Case] = {}
        for item in items:
            case = _case_of(item)
            if case is None:
                continue
            if case.id in cases:
                msg = f"case {case.id} is measured by two tests; the second is {item.nodeid}"
                raise InputError(msg)
            cases[case.id] = case
            item.add_marker(pytest.mark.xdist_group("/".join(map(str, case.adaptation))))
            # A case that fails before its first timed round leaves the timer unused: no news.
            item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
        return cases

    def _keep_shard(
        self, config: pytest.Config, items: list[pytest.Item], cases: list[Case]
    ) -> None:
        shard = self.session.options.shard
        assert shard is not None  # noqa: S101  (the caller checked)
        try:
            weights = {
                name: float(old.record.metrics["step_seconds"].value)
                for name, old in self.session.references().items()
                if "step_seconds" in old.record.metrics
            }
            shards = shard_of(cases, count=shard.count, weights=weights)
        except InputError as error:
            self._refuse(config, error)
            return
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            case = _case_of(item)
            mine = case is None or shards[case.id] == shard.index
            (kept if mine else dropped).append(item)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what was left out on purpose: by `-k`, `-m`, `--deselect`, `--lf`, a shard."""
        with contextlib.suppress(InputError):
            self.session.deselected |= {case.id for item in items if (case := _case_of(item))}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the baselines before the first case runs: unreadable ones must not cost a run."""
        if self.session.refusal is not None:
            return
        self.session.selected = {case.id for item in session.items if (case := _case_of(item))}
        if self.session.selected and not session.config.getoption("collectonly"):
            try:
                self.session.references()
            except InputError as error:
                self._refuse(session.config, error)

    def _refuse(self, config: pytest.Config, error: InputError) -> None:
        """Stop the run; a worker cannot, so there every case fails with the reason instead."""
        if not hasattr(config, "workerinput"):
            raise pytest.UsageError(str(error)) from None
        self.session.refusal = error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record that came with a report, and where its test stands."""
        name = getattr(report, "peft_regress_case", None)
        if name is not None:
            path, line, _ = report.location
            base = self.session.config.rootpath
            self.session.places[name] = place_in_repository(path, line, base=base)
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
        text = summary_text(self.session, look_in(config, self.session.options, colour=colour))
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
        node.workerinput["peft_regress_look"] = dataclasses.asdict(node.config.stash[_LOOK])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker collected and was to run."""
        output = getattr(node, "workeroutput", {})
        self.session.collected |= set(output.get("peft_regress_collected", ()))
        self.session.deselected |= set(output.get("peft_regress_deselected", ()))
        self.session.selected |= set(output.get("peft_regress_selected", ()))
        # Every worker collects everything, so each has the same counts.
        self.session.other_matrices |= output.get("peft_regress_other_matrices", {})
