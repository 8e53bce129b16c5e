"""What a page shows: entries, their cases over the entries, verdicts; and how it says that."""

import dataclasses
import functools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from msgspec import UNSET, structs

from peft_regress import metrics
from peft_regress.baselines import history
from peft_regress.cases import Case
from peft_regress.catalogue.built_in import STEPS
from peft_regress.catalogue.evidence import Evidence, Study, read_evidence, why_not_learned
from peft_regress.catalogue.matrix import built_in_matrices
from peft_regress.gate.budget_use import budget_of
from peft_regress.gate.changes import is_shown_only, value_of
from peft_regress.gate.comparison import Comparison, Invocation
from peft_regress.gate.policy import bounds_on
from peft_regress.gate.verdicts import FAILING, INCOMPLETE, BudgetUse
from peft_regress.project.devices import DeviceClass
from peft_regress.project.settings import DEFAULT_MATRIX
from peft_regress.report.document import Badge, Number
from peft_regress.report.sentences import shown_change, version_changes
from peft_regress.runs.schema import Record
from peft_regress.text import clean

ABSENT: Final = "-"
_DIGITS: Final = 7
_MOST_PACKAGES: Final = 6
_UNIT_NAMES: Final = {"byte": "bytes", "flop": "FLOP", "second": "s", "nat": "nat"}
_MARK_BADGES: Final = {
    "worse": Badge("worse", "bad"),
    "better": Badge("better", "good"),
    "break": Badge("definition changed", "plain"),
}


class Mark(NamedTuple):
    """Where a metric changed beyond its bound."""

    entry: int
    """The index of the entry."""
    what: Literal["worse", "better", "break"]
    """`break`: the definition changed, so nothing before can be compared."""
    before: int | None = None
    """The entry that it is compared with; None for a break."""
    change: float | None = None
    """Relative; of a fraction and a score the difference. None from zero."""

    @property
    def badge(self) -> Badge:
        """What it means, in its colour."""
        return _MARK_BADGES[self.what]

    def words(self, spec: metrics.MetricSpec) -> str:
        """Return how far the metric changed; '' for a break."""
        if self.what == "break":
            return ""
        return "from 0" if self.change is None else shown_change(self.change, spec)


class Held(NamedTuple):
    """Values by entry: `values[k]` holds from entry `at[k]` until `at[k + 1]`; None is absent."""

    at: list[int]
    values: list[Any]


def hold(by_entry: Mapping[int, Any], last: int) -> Held:
    """Return runs of equal values; an entry without the value ends a run."""
    found = Held([], [])
    for index in range(last + 1):
        value = by_entry.get(index)
        before = found.values[-1] if found.values else None
        if value != before or type(value) is not type(before):
            found.at.append(index)
            found.values.append(value)
    return found


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that a page shows: entries, their cases, the verdict on the newest, other verdicts."""

    entries: Sequence[history.Entry]
    """In the order of `read_entries`."""
    devices: Sequence[DeviceClass] = ()
    newest: tuple[int, Comparison] | None = None
    """The newest entry that something judges, by its index, and the comparison."""
    pairs: Mapping[tuple[int, int], Comparison] = dataclasses.field(default_factory=dict)
    """The verdicts on entries NEW by entries OLD, by their indices."""
    typed: Invocation = dataclasses.field(default_factory=Invocation)
    """The storage and the suite that commands name."""
    evidence: Evidence = dataclasses.field(default_factory=read_evidence)

    @functools.cached_property
    def cases(self) -> dict[str, dict[int, Record]]:
        """The records of each case by entry."""
        return history.records_by_case(self.entries)

    @functools.cached_property
    def present(self) -> dict[str, int]:
        """The entry with the present numbers of each case."""
        return history.present_entries(self.entries)

    @functools.cached_property
    def now(self) -> dict[str, Record]:
        """The present record of each case."""
        return history.present_records(self.entries)

    @functools.cached_property
    def studies(self) -> dict[tuple[str, str], Study]:
        """The studies that have learned, by task and network, of which a built-in case is shown."""
        found = {}
        for record in self.now.values():
            case = record.case
            study = None if record.is_own else self.evidence.of(case.architecture).get(case.task)
            if study and case.adapter_name in study.methods and not why_not_learned(study):
                found[case.task, case.architecture] = study
        return found

    @functools.cached_property
    def gains(self) -> dict[str, dict[str, Any]]:
        """What cases gain, to compare methods by: `line_of` accuracy or score, and what that is.

        Where there is a study, its scores alone are compared.
        """
        found = {}
        for name, record in self.now.items():
            case, gain = record.case, gain_name([record])
            settings = {} if record.settings is UNSET else record.settings
            steps = settings.get("steps", "its own" if record.is_own else STEPS)
            words, measured = f"{gain} after {clean(str(steps))} steps", record.metrics
            study = self.studies.get((case.task, case.architecture))
            if study is not None:
                words, measured = f"{gain} of the study", {}
                trained = None if record.is_own else study.methods.get(case.adapter_name)
                if trained is not None and record.status == "ok":
                    final = [*trained.final]
                    measured = {gain: metrics.make_metric(gain, statistics.fmean(final), final)}
            if gain in measured:
                shown = structs.replace(record, metrics=measured)
                line = line_of(gain, shown, metrics.METRICS[gain])
                found[name] = {"name": gain, "words": words, "is_studied": bool(study), **line}
        return found

    @functools.cached_property
    def specs(self) -> dict[str, metrics.MetricSpec]:
        """What each metric is, by the table of metrics, else by the newest record."""
        found = {
            name: metric
            for records in self.cases.values()
            for record in records.values()
            for name, metric in record.metrics.items()
        }
        names = sorted(found, key=metrics.metric_order)
        return {name: metrics.METRICS.get(name) or found[name].spec for name in names}

    def held(self, case: str) -> dict[str, Held]:
        """Return the values of a case's metrics over the entries."""
        last, found = len(self.entries) - 1, {}
        for name in self.specs:
            records = self.cases[case].items()
            values = {at: _rounded(one.metrics[name]) for at, one in records if name in one.metrics}
            if values:
                found[name] = hold(values, last)
        return found

    @functools.cached_property
    def marks(self) -> dict[str, dict[str, list[Mark]]]:
        """Where metrics moved, by case and metric."""
        return {name: self._marks_of(name) for name in self.cases}

    def _marks_of(self, case: str) -> dict[str, list[Mark]]:
        found: dict[str, list[Mark]] = {}
        records = {at: history.present_record(self.entries, case, at) for at in self.cases[case]}
        for old, new in pairwise(records):
            if records[old].definition != records[new].definition:
                known = records[old].metrics.keys() & records[new].metrics.keys()
                for name in known:
                    found.setdefault(name, []).append(Mark(new, "break"))
                continue
            for move in history.moves_between(self.entries, case, records, (old, new)):
                name, reason = move.reason.name, move.reason
                if name in self.specs and None not in (reason.old, reason.new):
                    mark = Mark(new, move.way, old, reason.relative_change)
                    found.setdefault(name, []).append(mark)
        return {name: found[name] for name in self.specs if name in found}

    @functools.cached_property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each case whose present numbers the newest verdict judged."""
        if self.newest is None:
            return {}
        index, comparison = self.newest
        return {
            case.id: case.verdict
            for case in comparison.cases
            if case.id in comparison.observed and self.present.get(case.id) == index
        }

    @functools.cached_property
    def standard_methods(self) -> frozenset[str]:
        """The methods that plots start with: those of the default matrix, if a case has one."""
        # By the records: the cases of a project are not imported to show them.
        cases = [record.case for record in self.now.values()]
        standard = {case.method for case in cases if DEFAULT_MATRIX in built_in_matrices(case)}
        return frozenset(standard or {case.method for case in cases})

    def in_order(self, field: str) -> list[str]:
        """Return the tasks or architectures, those with most scores of the default matrix first."""
        scored: dict[str, list[bool]] = {}
        for record in self.now.values():
            has_score = gain_name([record]) in record.metrics
            value = scored.setdefault(getattr(record.case, field), [])
            value += [DEFAULT_MATRIX in built_in_matrices(record.case)] if has_score else []
        return sorted(scored, key=lambda one: (-sum(scored[one]), -len(scored[one]), one))

    def budgets(self, name: str) -> list[tuple[str, BudgetUse]]:
        """Return what a case uses of its budget, by the newest record of the case it refers to."""
        record = self.now[name]
        other = None if record.budget is UNSET else record.budget.of
        found = budget_of(record, self.devices, None if other is None else self.now.get(other))
        return [(name, use) for use in found]

    def packages_words(self, before: int, after: int) -> str:
        """Return which packages differ between two entries."""
        sides = (self.entries[index].run.environment for index in (before, after))
        lines = version_changes(*sides)
        more = [f"and {len(lines) - _MOST_PACKAGES} more"] if lines[_MOST_PACKAGES:] else []
        shown = ", ".join([*lines[:_MOST_PACKAGES], *more])
        return shown or "packages as before: the code under test"

    def state_of(self, name: str) -> Badge:
        """Return the verdict on a case where it was judged, else whether it came through."""
        status, verdict = self.now[name].status_text, self.verdicts.get(name)
        if verdict is not None and (status == "ok" or verdict != "unchanged"):
            plain = "plain" if verdict == "known_defect" else "good"
            kind = "bad" if verdict in FAILING else "open" if verdict in INCOMPLETE else plain
            return Badge(verdict.replace("_", " "), kind)  # type: ignore[arg-type]
        is_plain = status == "ok" or status.startswith("unsupported")
        return Badge(clean(status), "plain" if is_plain else "bad")


def _rounded(metric: metrics.Metric) -> float:
    """Return whole numbers unchanged, others with as many digits as a page shows."""
    value = value_of(metric)
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def gain_name(records: Iterable[Record]) -> str:
    """Return what training gains: `accuracy`, or `score` if only scores were measured."""
    found = list(records)
    has_accuracy = any("accuracy" in record.metrics for record in found)
    return "accuracy" if has_accuracy or not any(one.has_score for one in found) else "score"


def line_of(name: str, record: Record, spec: metrics.MetricSpec) -> dict[str, Any]:
    """Return `{now, text, bound?, bound_text?, seeds?, seeds_text?}` of a metric's present value.

    `bound` is how far the value may change: relative, of a fraction and a score the difference, of
    losses that of step 1. It is absent where no change is judged, or every one. `seeds` are the
    lowest and the highest seed, where the value is the mean over seeds.
    """
    metric = record.metrics.get(name)
    value = None if metric is None else value_of(metric)
    found: dict[str, Any] = {"now": value, "text": number(value, spec.unit)}
    if metric is None:
        return found
    bound = 0.0 if is_shown_only(metric) else bounds_on(name, metric, record)[0]
    texts = {}
    if 0 < bound < float("inf"):
        found["bound"] = bound
        texts["bound_text"] = f"±{shown_change(bound, spec).lstrip('+')}"
    seeds = [sample for sample in metric.samples or () if not isinstance(sample, list)]
    if metric.kind in {"accuracy", "score"} and len(seeds) > 1:
        found["seeds"] = [min(seeds), max(seeds)]
        ends = (metrics.format_value(one, spec.unit) for one in found["seeds"])
        texts["seeds_text"] = " to ".join(ends)
    return found | texts


def number(value: float | None, unit: metrics.Unit) -> Number:
    """Return a value as it is shown, with its exact number."""
    shown = ABSENT if value is None else metrics.format_value(value, unit)
    return Number(shown, value, _UNIT_NAMES.get(unit, ""))


def method_words(case: Case) -> str:
    """Return the method with its rank."""
    return clean(case.method if case.rank is None else f"{case.method} r={case.rank}")
