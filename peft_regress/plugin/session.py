"""The gate's work in one pytest process: read references, measure, judge, write."""

import contextlib
import functools
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from peft_regress import report
from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.references import expected_cases
from peft_regress.baselines.run_adapters import adapters_of_run, prune_adapters
from peft_regress.cases import Case
from peft_regress.catalogue.budget_file import read_budgets
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import InputError
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.repeats import KnownCurve, curves_of
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.invariants import KNOWN
from peft_regress.metrics import make_metric
from peft_regress.plugin.closing_text import RunOutcome
from peft_regress.plugin.collection import Coverage, should_have_cases
from peft_regress.plugin.options import RegressOptions
from peft_regress.project.settings import read_settings
from peft_regress.report.terminal import layout_of, write_summary
from peft_regress.runner.keeper import Keeper
from peft_regress.runner.measurer import Measurer
from peft_regress.runs.environment import commit_of, describe_machine, installed_packages
from peft_regress.runs.journal import Header, KeptRecord, Line, run_of
from peft_regress.runs.run_file import write_run_file
from peft_regress.runs.schema import SCHEMA_VERSION, Record, with_budget

if TYPE_CHECKING:
    from peft_regress.measure.rounds import RoundRunner

_THIS_RUN = "this run"
_RELATIVE: Final = "relative_step_seconds"
_TRACE: Final = "torch.__trace"


class RegressSession:
    """Read, measure and judge as the options say; each thing is read once, on first use."""

    def __init__(self, config: pytest.Config, options: RegressOptions) -> None:
        self.options = options
        self._config = config
        self.is_worker = hasattr(config, "workerinput")
        """Whether this is a process of pytest-xdist."""
        self._benchmarks: list[Any] = []
        # A session without a case reads and imports none of it.
        self.references = functools.cache(
            lambda: load_references(options.baselines, options.judged_by)
        )
        self._budgets = functools.cache(lambda: read_budgets(options.project.settings.budgets))
        self._imported: dict[str, str] = {}
        """What the cases so far use beyond the requirements of this package."""
        self._measurer = Measurer()
        # Now: while a test runs, pytest's capture is no terminal.
        self.layout = layout_of(colour=False)
        self._commit_info: dict[str, Any] = {}
        if config.pluginmanager.hasplugin("benchmark") and (options.save or options.resume):
            with contextlib.chdir(config.rootpath):  # before a test leaves the working folder
                self._commit_info = config.hook.pytest_benchmark_generate_commit_info(config=config)
        self._header = functools.cache(
            lambda: Header(
                environment=installed_packages(),
                machine=describe_machine(),
                metrics_known=sorted(KNOWN),
                commit=commit_of(self._commit_info),
            )
        )
        self.records: dict[str, KeptRecord] = {}
        """What this run has measured or taken so far, by case."""
        self.keeper = Keeper(
            options.save, options.resume, option="--regress-resume", shown=self.shown
        )
        self._adapters: Path | None = None
        """The folder beside the run file that keeps adapters; None without a file."""
        if options.save is not None and self.keeper.writer is not None:
            self._adapters = adapters_of_run(options.save)

    def take(self, case: str, definition: Callable[[], str | None]) -> KeptRecord | None:
        """Return what an earlier run measured of a case; None if it must be measured."""
        if not self.keeper.has(case):
            return None
        header, known, project = self._header(), self._known(case), self.options.project
        return self.keeper.take(case, header, definition(), project, known=known)

    def keep(self, kept: KeptRecord) -> None:
        """Add a record, and put it on disk at once; a worker of pytest-xdist sends it instead."""
        self._imported.update(kept.imported)
        name = kept.record.case.id
        is_known = name in self.records and self.records[name].record == kept.record
        if is_known or self.is_worker:
            return
        # First, so that an interrupt of the writing leaves it for the run file.
        self.records[name] = kept
        self.keeper.keep(self._header(), kept)

    def add_unreached(self, selected: frozenset[str]) -> None:
        """Add what the earlier run measured of cases that this run was stopped before."""
        for name in sorted(selected - self.records.keys()):
            kept = self.take(name, lambda: None)
            if kept is not None:
                self.keep(kept)

    def define(self, case: Case) -> str:
        """Return the digest that defines a case."""
        return self._measurer.define(case, self.options.baselines, self.options.project)

    def take_or_measure(self, case: Case, benchmark: Any) -> KeptRecord:
        """Measure a case unless an earlier run did."""
        taken = self.take(case.id, lambda: self.define(case))
        if taken is not None:
            return taken
        benchmark.group = f"{case.task}/{case.architecture}"
        about = {"schema_version": SCHEMA_VERSION, "case_id": case.id}
        benchmark.extra_info["peft_regress"] = about

        def run_rounds(target: Any, **rounds: Any) -> None:
            # With pytest-benchmark's timer, or with a plain loop if the timer is off.
            from peft_regress.measure.rounds import plain_rounds

            if benchmark.disabled:
                # A disabled `pedantic` calls its target once, but every seed must run.
                benchmark.pedantic(lambda: plain_rounds(target, **rounds))
            else:
                benchmark.pedantic(target, **rounds)

        with _untraced():
            kept = self._measured(case, run_rounds, timed=not benchmark.disabled)
        stats = [] if benchmark.stats is None else [benchmark.stats]
        self._benchmarks += stats
        timed = self._benchmark_document(stats)["benchmarks"] if stats else []
        return msgspec.structs.replace(kept, times=next(iter(timed), None))

    def _measured(self, case: Case, run_rounds: "RoundRunner", *, timed: bool) -> KeptRecord:
        self.define(case)
        return self._measurer.measured(
            run_rounds=run_rounds,
            timed=timed,
            has_reference=case.id in self.references(),
            keep_adapters=self._adapters,
            keep_referee=self._adapters is not None,
            known=self._known(case.id),
        )

    def _known(self, case: str) -> list[KnownCurve]:
        """Return the trainings that a case need not repeat in full."""
        # What pytest-benchmark profiles is one more training, after those of all seeds.
        all_train = self.options.full or self._config.getoption("benchmark_cprofile", None)
        old = self.references().get(case)
        return [] if old is None or all_train else curves_of(old)

    def judge_record(self, record: Record) -> Comparison:
        """Judge one case; raises `InputError` if its baseline cannot be read."""
        header = self._header()
        observation = Observation(
            record=with_budget(record, self._budgets()),
            # Those that only some of its cases use included.
            environment=dict(sorted({**self._imported, **header.environment}.items())),
            machine=header.machine,
            run_name=_THIS_RUN,
            known=frozenset(KNOWN),
        )
        name = record.case.id
        return judge(
            self.references(),
            {name: observation},
            expected=[name],
            invocation=self.invocation(),
            devices=self.options.project.devices,
            beside={name: kept.record for name, kept in self.records.items()},
        )

    def known_cases(self) -> frozenset[str]:
        """Return the ids of every case of the matrix and of its baselines."""
        cases, references = matrix_cases(self.options.matrix), dict[str, Observation]()
        with contextlib.suppress(InputError):
            # Unreadable baselines fail the run elsewhere; the run file is written anyway.
            references = self.references()
        return frozenset(expected_cases(references, self.options.matrix, cases))

    def finish(self, coverage: Coverage) -> RunOutcome:
        """Judge the run, write run file and summary, and return the outcome."""
        lines = [Line(header=self._header(), kept=kept) for kept in self.records.values()]
        run = run_of(lines, self._header(), coverage.selection, self._budgets())
        run = msgspec.structs.replace(run, cases=with_relative_times(run.cases))
        options = self.options
        problems: list[str] = []
        comparison = None
        try:
            comparison = judge(
                self.references(),
                observations_of(run, _THIS_RUN),
                expected=coverage.expected,
                complete=run.selection.complete,
                invocation=self.invocation(),
                devices=self.options.project.devices,
            )
        except InputError as error:
            problems.append(str(error))
        is_saved = False
        if options.save is not None:
            document = self._benchmark_document(self._benchmarks)
            taken = (kept.times for kept in self.records.values() if kept.is_taken)
            document["benchmarks"] += filter(None, taken)
            try:
                write_run_file(options.save, run, document)
                is_saved = True
            except InputError as error:
                problems.append(str(error))
        if self._adapters is not None:
            prune_adapters(self._adapters, run)
        if options.summary is not None and comparison is not None:
            try:
                write_summary(options.summary, report.verdict_markdown(comparison))
            except InputError as error:
                problems.append(str(error))
        ended = coverage.was_interrupted
        notes = tuple(self.keeper.finish(run.cases, is_saved=is_saved, was_interrupted=ended))
        return RunOutcome(run=run, comparison=comparison, problems=tuple(problems), notes=notes)

    def _benchmark_document(self, benchmarks: list[Any]) -> dict[str, Any]:
        """Return pytest-benchmark's own part of the file, made by its own hooks."""
        config, hook = self._config, self._config.hook
        machine_info = hook.pytest_benchmark_generate_machine_info(config=config)
        document: dict[str, Any] = hook.pytest_benchmark_generate_json(
            config=config,
            benchmarks=benchmarks,
            include_data=True,
            machine_info=machine_info,
            commit_info=self._commit_info,
        )
        for entry in document["benchmarks"]:
            # pytest-benchmark keeps parameters as objects; a file holds their ids.
            params = entry["params"] or {}
            entry["params"] = {name: str(value) for name, value in params.items()}
        return document

    def invocation(self) -> Invocation:
        """Return the arguments of the commands that judge this run again, and accept it."""
        options = self.options
        usual = None
        with contextlib.suppress(InputError):  # a command says so itself
            usual = read_settings(self._config.invocation_params.dir).baselines
        storage = self.shown(options.baselines)
        judged_by = ["--regress-baseline", options.baseline] if options.baseline else []
        return Invocation(
            old=options.judged_by or storage,
            new=None if options.save is None else self.shown(options.save),
            suite=shlex.join([*map(self.shown, map(Path, self._config.args)), *judged_by]),
            baselines=None if options.baselines == usual else storage,
            strict=options.strict,
            matrix=None if options.matrix == options.project.matrix else options.matrix,
        )

    def missed_cases(self) -> list[str]:
        """Return the problems of a run that collected no case."""
        if self.options.was_given:
            return ["a --regress-... option was given, but no test with a case was collected"]
        if not should_have_cases(self._config, self.options.baselines):
            return []
        storage = self.shown(self.options.baselines)
        msg = (
            f"no test with a case was collected, but {storage} has baselines. Were the files of "
            "the cases renamed or moved? If these tests have no case, say so with "
            "`--regress-off`, or name the folders that have some: `-o regress_suites=FOLDER`."
        )
        return [msg]

    def shown(self, path: Path) -> str:
        """Return a path relative to the folder that pytest was started in."""
        here = self._config.invocation_params.dir
        return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def with_relative_times(cases: dict[str, Record]) -> dict[str, Record]:
    """Add `relative_step_seconds` to each timed case if `full` was timed in the same run."""
    timed = {name: one for name, one in cases.items() if "step_seconds" in one.metrics}
    full = {
        (one.case.task, one.case.architecture): one.metrics["step_seconds"].value
        for one in timed.values()
        if one.case.method == "full"
    }
    result = dict(cases)
    for name, one in timed.items():
        base = full.get((one.case.task, one.case.architecture))
        if base:
            relative = make_metric(_RELATIVE, one.metrics["step_seconds"].value / base)
            metrics = {**one.metrics, _RELATIVE: relative}
            result[name] = msgspec.structs.replace(one, metrics=metrics)
    return result


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """Detach pytest's handlers from torch's trace, so that torch makes none."""
    # Below a test that fails pytest would show an empty line for each record.
    logger = logging.getLogger(_TRACE)
    attached = logger.handlers[:]
    logger.handlers[:] = [one for one in attached if type(one).__module__.startswith("torch.")]
    try:
        yield
    finally:
        logger.handlers[:] = attached
