"""Find the function of a package that causes a finding: mix two releases and measure again.

The old unit in the new release mends it; the new unit in the old release breaks it. Only with both
is it named as the cause.
"""

import difflib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from peft_regress.cases import Case
from peft_regress.errors import InputError
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import Observation
from peft_regress.mixing.mixture import Calls, Mixture, Unit
from peft_regress.mixing.units import Module, changed_units
from peft_regress.runner.measurer import CaseRequest
from peft_regress.runner.measuring import MeasuringSetup
from peft_regress.runner.trials import LOCATED, TRIED, Located, Named, Trial, Tried, Value
from peft_regress.text import count_of, few
from peft_regress.workers.pool import Environment, Seat, UnusableEnvironmentError
from peft_regress.workers.worker import WorkerError

_MOST_LINES: Final = 40
_HEAVY: Final[Mapping[str, tuple[str, ...]]] = {"torch": (), "torchvision": ("torch",)}
"""What a worker imports at once where it searches one of these; else it imports both."""
_SAME: Final = 0.02
"""The share of a change by which a number may differ from that of either side."""

Effect = Literal["old", "new", "neither", "untried"]


class Side(NamedTuple):
    """A release of a package, and the environment that has it."""

    version: str
    environment: Environment


@dataclass(frozen=True, kw_only=True)
class FoundFunction:
    """Which units of a package cause a finding."""

    package: str
    units: tuple[Unit, ...] = ()
    """What mends it together; empty if nothing was found."""
    is_confirmed: bool = False
    """Whether the new units in the old release also break it."""
    places: tuple[str, ...] = ()
    """Each unit with its lines in both releases."""
    diff: str = ""
    """What changed in the units, as a unified diff."""
    trials: int = 0
    listed: tuple[str, ...] = ()
    """What ran and changed; only if nothing was found."""
    problem: str = ""
    """Why there was no search, or why it ended early."""

    @property
    def shortened_diff(self) -> str:
        """Return the first lines of the difference; JSON has all."""
        lines = self.diff.splitlines()
        left = len(lines) - _MOST_LINES
        more = [f"... and {left} more lines, in the output as JSON"] if left > 0 else []
        return "\n".join([*lines[:_MOST_LINES], *more])

    @property
    def sentence(self) -> str:
        """Return the conclusion."""
        tried = count_of(self.trials, "trial")
        if not self.units:
            why = self.problem or "no function that changed does it by itself or with others"
            ran = f"; what ran and changed, which is all that is known: {few(self.listed)}"
            return f"not found in {self.package} ({why}; {tried}){ran if self.listed else ''}"
        says = "this is it: the old code mends the new release, the new code breaks the old one"
        if not self.is_confirmed:
            says = "this mends it; alone in the old release it does not break that"
        return f"{' and '.join(self.places)}: {says} ({tried})"


def find_functions(  # noqa: PLR0913  (both sides, and what was found between them)
    findings: Sequence[Finding],
    references: Mapping[str, Observation],
    packages: Sequence[Sequence[str]],
    changed: Mapping[str, tuple[str | None, str | None]],
    environments: tuple[Environment, Environment],
    *,
    setup: MeasuringSetup,
    progress: Callable[[str], None],
) -> tuple[FoundFunction, ...]:
    """Search for the function of each finding, in its example.

    references: what the old side measured. packages: of each finding, those that cause it; only the
    first one is searched. changed: their versions on both sides.
    """
    found = []
    for finding, names in zip(findings, packages, strict=True):
        name = next(iter(names), "")
        old, new = changed.get(name, (None, None))
        if not (name and old and new):
            why = "no package alone causes it" if not name else f"only one side has {name}"
            found.append(FoundFunction(package=name, problem=why))
            continue
        case = references[finding.example.case].record.case
        sides = (Side(old, environments[0]), Side(new, environments[1]))
        found.append(find_function(finding, case, name, sides, setup=setup, progress=progress))
    return tuple(found)


def find_function(  # noqa: PLR0913  (what to search, where, and how long)
    finding: Finding,
    case: Case,
    package: str,
    sides: tuple[Side, Side],
    *,
    setup: MeasuringSetup,
    progress: Callable[[str], None],
    seconds: float | None = None,
) -> FoundFunction:
    """Search for the units of a package that cause a finding in a case.

    package: a distribution, by its normalized name. sides: the old release, then the new one.
    seconds: ends the search; None for as long as one case may take. Raises nothing that a release
    may cause: the answer has the problem.
    """
    libraries = _HEAVY.get(package, ("torch", "torchvision"))
    with tempfile.TemporaryDirectory(prefix="peft-regress-function-") as scratch:
        seats = tuple(Seat(Path(scratch), time_limit=setup.time_limit) for _ in sides)
        search = _Search(
            finding=finding,
            package=package,
            versions=[side.version for side in sides],
            environments=[replace(side.environment, libraries=libraries) for side in sides],
            seats=seats,
            request=CaseRequest(
                case=case.id,
                baselines=str(setup.baselines.absolute()),
                folder=setup.project.folder,
                trains=finding.cause.strand != "costs",
            ),
            deadline=time.monotonic() + (setup.time_limit if seconds is None else seconds),
            progress=progress,
        )
        try:
            return search.run()
        except (UnusableEnvironmentError, WorkerError, InputError) as error:
            return FoundFunction(package=package, problem=str(error), trials=search.trials)
        finally:
            for seat in seats:
                seat.close()


class _TimeUpError(Exception):
    """The search has taken as long as it may."""


@dataclass(kw_only=True)
class _Search:
    finding: Finding
    package: str
    versions: Sequence[str]
    """The old one, then the new one, as in all that follows."""
    environments: Sequence[Environment]
    seats: Sequence[Seat]
    request: CaseRequest
    deadline: float
    progress: Callable[[str], None]
    trials: int = 0
    in_full: bool = False
    located: list[Located] = field(default_factory=list)
    loaded: dict[int, list[str]] = field(default_factory=dict)
    """The modules that each side loads besides the package."""
    values: list[Mapping[str, Value]] = field(default_factory=list)
    """What each side measures, of what the finding is about and differs."""
    sources: dict[str, tuple[Module, Module]] = field(default_factory=dict)
    """Both releases of each file that was imported."""
    units: list[Unit] = field(default_factory=list)
    """What ran and changed: the files with what ran most often first."""
    known: dict[frozenset[Unit], Effect] = field(default_factory=dict)

    def run(self) -> FoundFunction:
        self.progress(f"searching {self.package} for the function, by mixing both releases")
        try:
            problem = self._prepare()
            if problem:
                return self._found((), problem)
            mending = self._single() or self._several()
        except _TimeUpError:
            return self._found((), "no time was left")
        return self._found(mending, "")

    def _prepare(self) -> str:
        """Trace both sides and list the units; return why that is not possible."""
        for seat, environment in zip(self.seats, self.environments, strict=True):
            worker = seat.worker(environment)
            self.located.append(worker.ask(LOCATED, Named(self.package), Located))
        if not all(one.modules for one in self.located):
            return "it is compiled: it has no Python files"
        ran = self._traced()
        if not ran:
            return f"a short run of {self.request.case} does not show the change"
        for name in sorted(ran[0].keys() | ran[1].keys()):
            self._read(name)
        calls = {
            unit: count
            for name, both in self.sources.items()
            for unit in (Unit(name, one) for one in changed_units(*both))
            if (count := self._calls(unit, ran)) is not None
        }
        # What runs often is nearer to a layer than what sets up the rest.
        most: dict[str, int] = {}
        for unit, count in calls.items():
            most[unit.file] = max(count, most.get(unit.file, 0))
        self.units = sorted(calls, key=lambda unit: (-most[unit.file], unit.file, -calls[unit]))
        return "" if self.units else "nothing that ran changed in its Python files"

    def _traced(self) -> list[Calls]:
        """Run both sides as they are, in full if the first steps do not show the finding."""
        for self.in_full in (False, True):
            if self.in_full and not self.request.trains:
                break
            with ThreadPoolExecutor() as pool:
                tried = list(pool.map(lambda at: self._asked(at, [], traced=True), (0, 1)))
            for one in tried:
                if one.problem:
                    raise InputError(one.problem)
            names = self._telling([one.values for one in tried])
            if names:
                self.values = [{name: one.values.get(name) for name in names} for one in tried]
                return [one.ran for one in tried]
        return []

    def _telling(self, values: Sequence[Mapping[str, Value]]) -> list[str]:
        """Return what differs between both sides of what the finding is about."""
        old, new = values
        names = [reason.subject or reason.kind for reason in self.finding.example.telling]
        if self.finding.cause.strand in {"function", "trained", "inputs", "quality"}:
            names += ["trained", "inputs", "filled_losses", "first_losses"]
        return [name for name in dict.fromkeys(names) if old.get(name) != new.get(name)]

    def _read(self, name: str) -> None:
        texts = []
        for one in self.located:
            folder = one.modules.get(name.partition("/")[0].removesuffix(".py"), "")
            path = Path(folder, name)
            if not path.is_file():
                return
            texts.append(path.read_text(encoding="utf-8"))
        if texts[0] != texts[1]:
            self.sources[name] = (Module(texts[0]), Module(texts[1]))

    def _calls(self, unit: Unit, ran: Sequence[Calls]) -> int | None:
        """Return how often a unit ran on both sides, None for never; what is no function: 0."""
        function = unit.name.partition("(")[0]
        places = [module.places.get(function) for module in self.sources[unit.file]]
        if not any(place and place.is_function for place in places):
            return None if function.startswith("__") else 0
        calls = (one.get(unit.file, {}).get(function.partition("#")[0], 0) for one in ran)
        return sum(calls) or None

    def _single(self) -> tuple[Unit, ...]:
        """Try what changed file by file, then one by one in the files that can do it."""
        groups: dict[str, list[Unit]] = {}
        for unit in self.units:
            groups.setdefault(unit.file, []).append(unit)
        for group in groups.values():
            if len(group) > 1 and self._effect(group) == "new":
                continue
            found = next((one for one in group if self._effect([one]) == "old"), None)
            if found is not None:
                return (found,)
        return ()

    def _several(self) -> tuple[Unit, ...]:
        """Return the smallest set that delta debugging (ddmin) finds among all that changed."""
        units, parts = list(self.units), 2
        if self._effect(units) != "old":
            return ()
        while len(units) > 1:
            size = -(-len(units) // parts)
            chunks = [units[at : at + size] for at in range(0, len(units), size)]
            rests = [[one for one in units if one not in chunk] for chunk in chunks]
            smaller = next((one for one in chunks if self._effect(one) == "old"), None)
            rest = smaller or next((one for one in rests if self._effect(one) == "old"), None)
            if rest:
                units, parts = rest, 2 if smaller else max(parts - 1, 2)
            elif parts >= len(units):
                break
            else:
                parts = min(2 * parts, len(units))
        return tuple(units)

    def _effect(self, units: Sequence[Unit], *, of: int = 0) -> Effect:
        """Return which side the other release shows with some units of one side."""
        key = frozenset(units)
        if of == 0 and key in self.known:
            return self.known[key]
        tried = self._asked(1 - of, units)
        found: Effect = "untried"
        if not tried.problem:
            alike = [_is_alike(tried.values, self.values, at) for at in (0, 1)]
            found = "old" if alike[0] else "new" if alike[1] else "neither"
            is_error = str(tried.values.get("status")).startswith("error")
            found = "untried" if is_error and found == "neither" else found
        if of == 0:
            self.known[key] = found
        return found

    def _asked(self, at: int, units: Sequence[Unit], *, traced: bool = False) -> Tried:
        """Measure one side with some units of the other one."""
        if time.monotonic() > self.deadline:
            raise _TimeUpError
        self.trials += 1
        here, there = self.located[at], self.located[1 - at]
        names = [*here.modules]
        mixture = Mixture(
            modules=names,
            folder=here.modules[names[0]],
            donor=there.modules.get(names[0], ""),
            units=sorted({*units, *self._needed(units, donor=1 - at)}),
            traced="yes" if traced else "",
        )
        trial = Trial(
            request=self.request,
            mixture=mixture,
            in_full=self.in_full,
            first=self.loaded.get(at, []),
        )
        try:
            found = self.seats[at].worker(self.environments[at]).ask(TRIED, trial, Tried)
        except WorkerError as error:
            self.seats[at].close()
            return Tried(problem=str(error))
        self.loaded.setdefault(at, found.loaded)
        return found

    def _needed(self, units: Iterable[Unit], *, donor: int) -> set[Unit]:
        """Return what only the donor binds and units use: helpers, imports, constants, fields."""
        lacking = {
            name: [one for one in both[donor].places if one not in both[1 - donor].places]
            for name, both in self.sources.items()
        }
        theirs = (one for both in self.sources.values() for one in both[1 - donor].places)
        known = {one.rpartition(".")[2] for one in theirs}
        found: set[Unit] = set()
        places = {file: both[donor].places for file, both in self.sources.items()}
        left = [one for one in units if one.name.partition("(")[0] in places[one.file]]
        while left:
            unit = left.pop()
            names, attributes = self.sources[unit.file][donor].used_by(unit.name)
            for file, only in lacking.items():
                for one in only:
                    short = one.rpartition(".")[2]
                    is_used = (one in names and file == unit.file) or (
                        short in attributes and short not in known
                    )
                    needed = Unit(file, one)
                    if is_used and needed not in found:
                        found.add(needed)
                        left.append(needed)
        return found

    def _found(self, units: tuple[Unit, ...], problem: str) -> FoundFunction:
        self.deadline = math.inf  # for three trials at most
        confirmed = bool(units) and self._breaks(units)
        listed = [] if units else [f"{one.file} {one.name}" for one in self.units]
        return FoundFunction(
            package=self.package,
            units=units,
            is_confirmed=confirmed,
            places=tuple(map(self._place, units)),
            diff="".join(line for one in units for line in self._diff(one)),
            trials=self.trials,
            listed=tuple(listed),
            problem=problem,
        )

    def _breaks(self, units: tuple[Unit, ...]) -> bool:
        """Return whether the new units break the old release, alone or with those beside them."""
        effect = self._effect(units, of=1)
        if effect == "untried":
            folders = {Path(one.file).parent for one in units}
            beside = [one for one in self.units if Path(one.file).parent in folders]
            others = [one for one in beside if one not in units]
            return self._effect(beside, of=1) == "new" and self._effect(others, of=1) != "new"
        return effect == "new"

    def _place(self, unit: Unit) -> str:
        old, new = (module.lines(unit.name) for module in self.sources[unit.file])
        both = ((new, self.versions[1]), (old, self.versions[0]))
        where = ", ".join(
            f"{version}: lines {lines[0]} to {lines[1]}" if lines else f"not in {version}"
            for lines, version in both
        )
        return f"{unit.file}, {unit.name} ({where})"

    def _diff(self, unit: Unit) -> Iterator[str]:
        old, new = (module.segment(unit.name) for module in self.sources[unit.file])
        before, after = (f"{unit.file} {version}" for version in self.versions)
        return difflib.unified_diff(old, new, before, after)


def _is_alike(found: Mapping[str, Value], sides: Sequence[Mapping[str, Value]], at: int) -> bool:
    """Return whether values are those of one side, numbers within a small share of the change."""
    for name, wanted in sides[at].items():
        value, other = found.get(name), sides[1 - at][name]
        numbers = [one for one in (value, wanted, other) if isinstance(one, int | float)]
        if len(numbers) < 3 or any(isinstance(one, bool) for one in numbers):  # noqa: PLR2004
            if value != wanted:
                return False
        elif abs(numbers[0] - numbers[1]) > _SAME * abs(numbers[1] - numbers[2]):
            return False
    return True
