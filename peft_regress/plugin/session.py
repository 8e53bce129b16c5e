"""One pytest run as the gate sees it: what was expected, what ran, and what comes of it."""

from __future__ import annotations

import contextlib
import functools
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress import report
from peft_regress.baselines.adapters import adapters_of_run, prune_adapters
from peft_regress.baselines.references import load_references
from peft_regress.catalogue.matrix import DEFAULT_MATRIX, matrices_of, matrix_cases
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.gate.comparison import Invocation
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.metrics import make_metric
from peft_regress.report.github import is_github, write_summary
from peft_regress.report.verdict.annotations import annotation, verdict_annotations
from peft_regress.runs.environment import describe_machine, installed_packages
from peft_regress.runs.run_file import run_document, without_host, write_run_file
from peft_regress.runs.schema import SCHEMA_VERSION, Run, Selection

if TYPE_CHECKING:
    import pytest

    from peft_regress.cases import Case
    from peft_regress.gate.comparison import Comparison
    from peft_regress.gate.verdicts import Observation
    from peft_regress.measure.step_profile import ProfileCache
    from peft_regress.plugin.options import RegressOptions
    from peft_regress.report.verdict.annotations import SourceLine
    from peft_regress.runs.schema import Machine, Record

__all__ = ["RegressSession", "with_relative_times"]


class RegressSession:
    """What one pytest process knows of the run, and what it makes of it at the end."""

    def __init__(self, config: pytest.Config, options: RegressOptions) -> None:
        self.config = config
        self.options = options
        self.collected: set[str] = set()
        self.deselected: set[str] = set()
        self.other_matrices: dict[str, int] = {}
        self.selected: set[str] = set()
        self.records: dict[str, Record] = {}
        self.places: dict[str, SourceLine] = {}
        self.benchmarks: list[Any] = []
        self.problems: list[str] = []
        self.refusal: PeftRegressError | None = None
        # Read once each, on first use: a session without a case reads and imports none of it.
        self.references = functools.cache(self._load_references)
        self.environment = functools.cache(installed_packages)
        self.machine: functools._lru_cache_wrapper[Machine] = functools.cache(describe_machine)
        self.profiles = functools.cache(_new_profiles)

    @property
    def has_storage(self) -> bool:
        """Whether there is anything here that a case could be judged by, or was asked for."""
        return self.was_asked_for or self.options.baselines.is_dir()

    @property
    def adapters(self) -> Path | None:
        """Return the folder beside the run file where adapters are kept; None without a file."""
        path = self.options.save
        if path is None or (path.exists() and not path.is_file()):
            return None  # /dev/stdout, for instance
        return adapters_of_run(path)

    @property
    def is_gating(self) -> bool:
        """Whether this run had anything to do with cases."""
        if self.config.getoption("collectonly"):
            return False
        return bool(self.collected or self.records)

    def narrowed_by(self) -> list[str]:
        """Return how the user narrowed the run, in the words that were typed."""
        option = self.config.getoption
        found = self._collection_narrowed_by()
        if option("keyword"):
            found.append(f"-k {option('keyword')}")
        if option("markexpr"):
            found.append(f"-m {option('markexpr')}")
        found += [f"--deselect {prefix}" for prefix in option("deselect") or ()]
        if self.options.shard is not None:
            found.append(f"--regress-shard {self.options.shard.index}/{self.options.shard.count}")
        return [how.encode("utf-8", "backslashreplace").decode() for how in found]

    def _collection_narrowed_by(self) -> list[str]:
        """Return what kept tests from being collected at all."""
        option = self.config.getoption
        found = [f"--ignore {path}" for path in option("ignore") or ()]
        found += [f"--ignore-glob {path}" for path in option("ignore_glob") or ()]
        if option("lf", default=False):
            found.append("--lf")
        if option("stepwise", default=False):
            found.append("--stepwise")
        if self.config.args_source is self.config.ArgsSource.ARGS:
            typed = [str(argument) for argument in self.config.args]
            found += [text for text in typed if "::" in text or Path(text).is_file()]
        return found

    def holes(self) -> set[str]:
        """Return the expected cases that were left out although nobody asked for that.

        `-k`, a marker, `--deselect` and a shard choose among what was collected; only a path and
        its like explain why a case was not collected at all; and nothing explains one that was
        collected and then vanished without a word.
        """
        vanished = self.collected - self.selected - self.deselected - self.records.keys()
        if self._collection_narrowed_by():
            return vanished
        lost = self._known() - self.collected - self.records.keys()
        return vanished | lost if self.narrowed_by() else vanished | lost | self._not_selected()

    @property
    def was_asked_for(self) -> bool:
        """Whether an option was given that makes sense for a run with cases only."""
        options = self.options
        given = (options.baseline, options.save, options.shard, options.summary)
        return options.strict or any(value is not None for value in given)

    def run(self) -> Run:
        """Return what was measured as the object that the run file holds."""
        not_selected = self._not_selected()
        complete = not not_selected and self.selected <= self.records.keys()
        selection = Selection(
            complete=complete,
            narrowed_by=self.narrowed_by() if not_selected else [],
            not_selected=sorted(not_selected),
        )
        return Run(
            schema_version=SCHEMA_VERSION,
            environment=self.environment(),
            machine=self.machine(),
            selection=selection,
            cases=with_relative_times(dict(sorted(self.records.items()))),
        )

    def comparison(self) -> Comparison:
        """Judge what was selected, and the holes."""
        run = self.run()
        return judge(
            self.references(),
            observations_of(run, "this run"),
            expected=self.selected | self.holes(),
            complete=run.selection.complete,
            invocation=self.invocation(),
        )

    def finish(self) -> bool:
        """Write run file and summary; return whether the run must fail."""
        comparison = None
        try:
            comparison = self.comparison()
        except InputError as error:
            self.problems.append(str(error))
        run = self.run()
        if self.options.save is not None:
            self._save(self.options.save, run)
        if self.adapters is not None:
            prune_adapters(self.adapters, run)
        if self.options.summary is not None and comparison is not None:
            text = report.verdict_markdown(comparison)
            try:
                write_summary(self.options.summary, text)
            except InputError as error:
                self.problems.append(str(error))
        return bool(self.problems or comparison is None or comparison.red)

    def annotation_lines(self) -> list[str]:
        """Return what marks the lines of tests on GitHub; nothing where this is not GitHub."""
        if not is_github() or not self.is_gating:
            return []
        with contextlib.suppress(InputError):
            return verdict_annotations(self.comparison(), self.places)
        return [annotation("error", " ".join(self.problems))]

    def extend_document(self, document: dict[str, Any]) -> None:
        """Add the run to a document that pytest-benchmark is about to write itself."""
        if self.is_gating:
            document.update(run_document(self.run(), document))

    def _save(self, path: Path, run: Run) -> None:
        """Write the run file, or where that fails keep the minutes of work in another place."""
        document = self._benchmark_document()
        try:
            write_run_file(path, run, document)
        except InputError as error:
            self.problems.append(str(error))
            with contextlib.suppress(InputError):
                refuge = Path(tempfile.mkdtemp(prefix="peft-regress-")) / "run.json"
                write_run_file(refuge, run, document)
                self.problems.append(f"The run was kept in {refuge}")

    def invocation(self) -> Invocation:
        """Return what the user types to judge this run again, and to accept it."""
        options, usual = self.options, self.config.invocation_params.dir / "baselines"
        storage = self.shown(options.baselines)
        judged_by = ["--regress-baseline", options.baseline] if options.baseline else []
        return Invocation(
            old=options.baseline or storage,
            new=None if options.save is None else self.shown(options.save),
            suite=shlex.join([*map(self.shown, map(Path, self.config.args)), *judged_by]),
            baselines=None if options.baselines == usual else storage,
            strict=options.strict,
            matrix=None if options.matrix == DEFAULT_MATRIX else options.matrix,
            cases=tuple(matrix_cases(options.matrix)),
        )

    def shown(self, path: Path) -> str:
        """Return a path as it would be typed where pytest was started."""
        here = self.config.invocation_params.dir
        return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

    def _not_selected(self) -> set[str]:
        return self._known() - self.selected - self.records.keys()

    def _known(self) -> set[str]:
        """Return every case of the matrix, of its baselines, and of this suite."""
        known = {case.id for case in matrix_cases(self.options.matrix)} | self.collected
        with contextlib.suppress(InputError):
            # Unreadable baselines fail the run elsewhere; what was measured is written anyway.
            known |= {
                name
                for name, old in self.references().items()
                if self.is_of_matrix(old.record.case)
            }
        return known

    def note_left_out(self, case: Case) -> None:
        """Count a case that belongs to other matrices only, for the summary."""
        for matrix in matrices_of(case):
            self.other_matrices[matrix] = self.other_matrices.get(matrix, 0) + 1

    def is_of_matrix(self, case: Case) -> bool:
        """Return whether a case belongs to the matrix of this run, or to no matrix at all."""
        return self.options.matrix in (matrices_of(case) or {self.options.matrix})

    def _load_references(self) -> dict[str, Observation]:
        return load_references(self.options.baselines, self.options.baseline)

    def _benchmark_document(self) -> dict[str, Any]:
        """Return pytest-benchmark's own part of the file, by its own hooks."""
        hook = self.config.hook
        machine_info = hook.pytest_benchmark_generate_machine_info(config=self.config)
        document: dict[str, Any] = hook.pytest_benchmark_generate_json(
            config=self.config,
            benchmarks=self.benchmarks,
            include_data=True,
            machine_info=without_host(machine_info),
            commit_info=hook.pytest_benchmark_generate_commit_info(config=self.config),
        )
        for entry in document["benchmarks"]:
            # pytest-benchmark keeps the parameters themselves; in a file they are their ids.
            params = entry["params"] or {}
            entry["params"] = {name: str(value) for name, value in params.items()}
        return document


def with_relative_times(cases: dict[str, Record]) -> dict[str, Record]:
    """Add `relative_step_seconds` to each timed case whose `full` counterpart ran beside it."""
    full = {
        (record.case.task, record.case.architecture): record.metrics["step_seconds"].value
        for record in cases.values()
        if record.case.method == "full" and "step_seconds" in record.metrics
    }
    result = {}
    for name, record in cases.items():
        base = full.get((record.case.task, record.case.architecture))
        if base and "step_seconds" in record.metrics:
            relative = record.metrics["step_seconds"].value / base
            metrics = {
                **record.metrics,
                "relative_step_seconds": make_metric("relative_step_seconds", relative),
            }
            record = msgspec.structs.replace(record, metrics=metrics)  # noqa: PLW2901
        result[name] = record
    return result


def _new_profiles() -> ProfileCache:
    from peft_regress.measure.step_profile import ProfileCache

    return ProfileCache()
