"""Which cases a run measures: by which tests, what narrowed it, what is missing."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from peft_regress.baselines.storage import baseline_files
from peft_regress.cases import Case, in_words, matching_ids
from peft_regress.catalogue.budget_file import read_budgets
from peft_regress.catalogue.matrix import check_matrix, check_other_matrices, matrices_of, shard_of
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.files import is_file
from peft_regress.gate import Observation
from peft_regress.plugin.options import RegressOptions
from peft_regress.report.terminal import in_log
from peft_regress.runs.schema import Selection
from peft_regress.text import printable, redacted


def case_of(item: pytest.Item) -> Case | None:
    """Return the case that a test measures, by its marker; None for a test without a case.

    Raises `InputError` if the marker's arguments are wrong.
    """
    marker = item.get_closest_marker("case")
    if marker is None or "peft_regress" not in getattr(item, "fixturenames", ()):
        # Another suite may have a marker of that name.
        return None
    try:
        if marker.args:
            raise InputError(
                f"{item.nodeid}: marker case(...) takes task, method, architecture, rank by name"
            )
        return msgspec.convert(marker.kwargs, Case)
    except msgspec.ValidationError as error:
        raise InputError(f"{item.nodeid}: marker case(...): {in_words(str(error))}") from None


def known_case_of(item: pytest.Item) -> Case | None:
    """Return a test's case; None also for a wrong marker, which collection reports."""
    with contextlib.suppress(InputError):
        return case_of(item)
    return None


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """The case ids that a pytest process collected; `|` joins those of several processes."""

    cases: frozenset[str] = frozenset()
    """All of this run's matrix, before anything was deselected."""
    deselected: frozenset[str] = frozenset()
    """Left out on purpose: by `-k`, `-m`, `--deselect`, `--lf` or a shard."""
    selected: frozenset[str] = frozenset()
    """To be measured."""
    other_matrices: dict[str, int] = {}
    """How many cases belong to other matrices only, by matrix."""

    def __or__(self, other: Self) -> Self:
        """Join two processes: every worker of pytest-xdist collects everything."""
        return type(self)(
            cases=self.cases | other.cases,
            deselected=self.deselected | other.deselected,
            selected=self.selected | other.selected,
            other_matrices={**self.other_matrices, **other.other_matrices},
        )


@dataclass(eq=False)
class CollectionHooks:
    """Keep the cases of this run's matrix and shard, and note which cases were left out."""

    _options: RegressOptions
    _references: Callable[[], Mapping[str, Observation]]
    """Reads the baselines."""
    collected: Collected = field(default_factory=Collected)
    """What this process and its workers have collected so far."""
    refusal: InputError | None = None
    """Why no case of this worker can be measured; None if they can."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, Any, Any]:
        """Report a refusal of `case_params` by its message alone: its traceback helps nobody."""
        report = yield
        call = getattr(report, "call", None)
        error = None if call is None or call.excinfo is None else call.excinfo.value
        if report.failed and isinstance(error, PeftRegressError):
            report.longrepr = str(error)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Note the cases before anything is deselected, then keep those of this shard."""
        try:
            self._keep_cases(config, items)
        except InputError as error:
            self._refuse(config, error)
        if hasattr(config, "workerinput"):
            # pytest-xdist sends neighbours to one worker: let it profile an adaptation once.
            items.sort(key=_adaptation_of)

    def _keep_cases(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        options, glob, shard = self._options, self._options.cases, self._options.shard
        if options.typed_matrix is not None:
            # Only now has every conftest.py registered its parts.
            check_matrix(options.typed_matrix)
        all_cases = filter(None, map(case_of, items))
        # `benchmarks/` holds the tests of all matrices.
        others = [matrices_of(case) for case in all_cases if not options.is_of_matrix(case)]
        _keep(config, items, options.is_of_matrix)
        cases = _marked_cases(items)
        self.collected |= Collected(
            cases=frozenset(cases), other_matrices=dict(Counter(itertools.chain(*others)))
        )
        if not cases:
            return
        read_budgets(options.project.settings.budgets)  # a faulty file ends the run here
        if glob is not None:
            if not any(fnmatchcase(name, glob) for name in cases):
                check_other_matrices(glob, matrix=options.matrix, option="--regress-matrix")
            chosen = matching_ids(cases, glob)
            _keep(config, items, lambda case: case.id in chosen)
        if shard is not None:
            index, count = shard
            shards = shard_of(filter(None, map(case_of, items)), count=count)
            _keep(config, items, lambda case: shards[case.id] == index)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note the cases that were left out on purpose."""
        cases = filter(None, map(known_case_of, items))
        self.collected |= Collected(deselected=frozenset(case.id for case in cases))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the baselines before the first case runs: an unreadable one must not cost a run."""
        if self.refusal is not None:
            return
        cases = filter(None, map(case_of, session.items))
        self.collected |= Collected(selected=frozenset(case.id for case in cases))
        if self.collected.selected and not session.config.getoption("collectonly"):
            try:
                self._references()
            except InputError as error:
                self._refuse(session.config, error)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker of pytest-xdist, send the collected cases to the controller."""
        workeroutput = getattr(session.config, "workeroutput", None)
        if workeroutput is not None:
            workeroutput["peft_regress_collected"] = msgspec.to_builtins(self.collected)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """In the controller, take a worker's collected cases; a worker that died has sent none."""
        plain = getattr(node, "workeroutput", {}).get("peft_regress_collected")
        if plain is not None:
            self.collected |= msgspec.convert(plain, Collected)

    def _refuse(self, config: pytest.Config, error: InputError) -> None:
        """Stop the run; a worker cannot, so each of its cases fails with the reason instead."""
        if not hasattr(config, "workerinput"):
            raise pytest.UsageError(in_log(str(error))) from None
        self.refusal = error


class SkippedCases:
    """All that is left of the plugin under `--regress-off`."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Skip the tests that measure a case, and say why."""
        for item in items:
            if "peft_regress" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason="--regress-off"))


def _adaptation_of(item: pytest.Item) -> str:
    """Return the architecture and method of a test's case; empty without a case."""
    case = known_case_of(item)
    return "" if case is None else f"{case.architecture}/{case.adapter_name}"


def _marked_cases(items: Iterable[pytest.Item]) -> dict[str, Case]:
    """Return the cases by id, after giving each of their tests the marks that it needs."""
    cases: dict[str, Case] = {}
    for item in items:
        case = case_of(item)
        if case is None:
            continue
        if case.id in cases:
            problem = f"case {case.id} is measured by two tests; the second is {item.nodeid}"
            raise InputError(problem)
        cases[case.id] = case
        # A case that fails before its first timed round leaves the timer unused.
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
    return cases


def _keep(config: pytest.Config, items: list[pytest.Item], is_mine: Callable[[Case], bool]) -> None:
    """Deselect the tests of other cases."""
    mine = [(case := case_of(item)) is None or is_mine(case) for item in items]
    dropped = [item for item, kept in zip(items, mine, strict=True) if not kept]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item, kept in zip(items, mine, strict=True) if kept]


def kept_from_collection(option: Any) -> list[str]:
    """Return the options that keep tests from being collected: paths, `--ignore`, `--lf`."""
    found = [f"--ignore {path}" for path in getattr(option, "ignore", None) or ()]
    found += [f"--ignore-glob {path}" for path in getattr(option, "ignore_glob", None) or ()]
    found += [f"--{name}" for name in ("lf", "stepwise") if getattr(option, name, False)]
    typed = map(str, option.file_or_dir)
    found += [text for text in typed if "::" in text or is_file(Path(text))]
    return [text.encode("utf-8", "backslashreplace").decode() for text in found]


def chosen_from_collected(option: Any) -> list[str]:
    """Return the options that choose among the collected tests."""
    found = [f"-k {option.keyword}"] if option.keyword else []
    found += [f"-m {option.markexpr}"] if option.markexpr else []
    found += [f"--deselect {prefix}" for prefix in option.deselect or ()]
    found += [f"--regress-cases {option.regress_cases}"] if option.regress_cases else []
    found += [f"--regress-shard {option.regress_shard}"] if option.regress_shard else []
    return [text.encode("utf-8", "backslashreplace").decode() for text in found]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The expected and the measured cases of a run, by id."""

    known: frozenset[str]
    """Every case of the matrix and of its baselines."""
    measured: frozenset[str]
    collected: Collected
    before_collection: list[str]
    """The options that kept tests from being collected."""
    after_collection: list[str]
    """The options that chose among the collected tests."""
    was_interrupted: bool = False
    """Then nobody knows whether all was collected."""

    @property
    def not_selected(self) -> frozenset[str]:
        """The known cases that nothing selected."""
        return (self.known | self.collected.cases) - self.collected.selected - self.measured

    @property
    def selection(self) -> Selection:
        """The selection as the run file has it."""
        left_out = self.not_selected
        narrowed_by = (*self.before_collection, *self.after_collection)
        return Selection(
            complete=not self.was_interrupted
            and not left_out
            and self.collected.selected <= self.measured,
            # A path may hold bytes that are not UTF-8.
            narrowed_by=[redacted(printable(one)) for one in narrowed_by] if left_out else [],
            not_selected=sorted(left_out),
        )

    @property
    def expected(self) -> frozenset[str]:
        """The cases that need a record: those selected, and those left out by nobody's wish."""
        # `-k`, `-m`, `--deselect` and a shard choose among collected cases. Only a path and the
        # like explain why a case was not collected. Nothing explains a case that was collected and
        # then vanished without being reported as deselected.
        collected = self.collected
        expected = collected.selected | (collected.cases - collected.deselected - self.measured)
        if self.before_collection:
            return expected
        expected |= self.known - collected.cases - self.measured
        return expected if self.after_collection else expected | self.not_selected


def should_have_cases(config: pytest.Config, baselines: Path) -> bool:
    """Return whether baselines are there, and pytest was asked for a folder that holds cases.

    These are the folders of the ini option `regress_suites`; without it, every folder. A run of
    single files or tests, or one without some folder, need not have a case.
    """
    if kept_from_collection(config.option):
        return False
    with contextlib.suppress(InputError):  # a folder of that name may be another tool's
        suites: list[Path] = config.getini("regress_suites")
        asked = [config.invocation_params.dir / argument for argument in config.args]
        pairs = itertools.product(asked, suites)
        are_asked = any(a.is_relative_to(b) or b.is_relative_to(a) for a, b in pairs)
        return bool(baseline_files(baselines)) and (not suites or are_asked)
    return False
