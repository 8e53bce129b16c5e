"""Find which of several packages that changed together is responsible: try each one by itself."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from peft_regress.errors import InputError
from peft_regress.gate.findings import Finding, causes_of
from peft_regress.gate.judge import judge
from peft_regress.gate.repeats import known_curves
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.overlay.folder import Overlay
from peft_regress.overlay.overlay import opened_overlay, opened_part
from peft_regress.overlay.pip import Planned
from peft_regress.project.settings import Pip
from peft_regress.runner.measuring import MeasuringSetup, measure_cases
from peft_regress.runs.environment import changed_packages, likely_first
from peft_regress.text import clean, few

Observations: TypeAlias = Mapping[str, Observation]
"""By the id of the case."""

_MOST_TRIALS: Final = 8
"""A torch with CUDA brings a dozen packages of its own, and none of them works by itself."""
_LONGEST: Final = 170
"""Two lines of a report."""
_LONGEST_WHY: Final = 60


@dataclass(frozen=True, kw_only=True)
class ResponsiblePackages:
    """Which of the packages that changed are responsible for one finding."""

    alone: tuple[str, ...]
    """Each of these shows the finding by itself."""
    together: tuple[str, ...] = ()
    """Each of these shows it with the packages that it needs."""
    without_effect: tuple[str, ...]
    """None of these shows it by itself, or with the packages that it needs."""
    untried: tuple[tuple[str, str], ...]
    """(package, why it cannot be tried by itself)."""
    asked: tuple[str, ...] = ()
    """The packages that were asked for: the sentence has each of them that changed."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the packages that show the finding, without those that they need."""
        return tuple(title.split(" with ")[0] for title in self.alone or self.together)

    @property
    def sentence(self) -> str:
        """Return the conclusion in at most two lines of a report."""
        found = self.alone or self.together
        tried = list(dict.fromkeys(title.split(" with ")[0] for title in self.without_effect))
        if found:
            names = few(found) if found[2:] else " and ".join(found)
            names += " alone" if self.alone else ""
            does = f"{names} {'does' if len(found) == 1 else 'do'} it"
            said = "; ".join([does, *self._about_asked()])
        elif not self.untried:
            said = f"no package alone does it, only with others: {few(tried)}"
        else:
            left, why = few([name for name, _ in self.untried]), self.untried[0][1]
            why = clean(why, longest=_LONGEST_WHY)
            said = f"unknown, since {left} cannot be tried alone ({why})"
            does = "does" if len(tried) == 1 else "do"
            said += f"; {few(tried)} {does} not do it" if tried else ""
        return clean(said, longest=_LONGEST)

    def _about_asked(self) -> Iterator[str]:
        """Yield what is known of the packages that were asked for and are not named yet."""
        for title in self.together if self.alone else ():
            if title.split(" with ")[0] in self.asked:
                yield f"{title}: yes"
        for title in self.without_effect:
            name, *others = title.split(" with ")
            if name in self.asked:
                yield f"{title}: no" if others else f"{name} alone: no"
        for name, why in self.untried:
            if name in self.asked:
                yield f"{name} cannot be tried alone: {clean(why, longest=_LONGEST_WHY)}"


def find_responsible(  # noqa: PLR0913  (both sides, and what was found between them)
    findings: Sequence[Finding],
    base: Sequence[Planned],
    candidate: Sequence[Planned],
    references: Observations,
    *,
    asked: Sequence[str] = (),
    base_requirements: Sequence[str] = (),
    loaded: Mapping[str, Collection[str]],
    same_files: bool = False,
    setup: MeasuringSetup,
    progress: Callable[[str], None],
) -> tuple[ResponsiblePackages, ...]:
    """Try each package that differs by itself in the good environment, on each finding's example.

    `base` and `candidate` are what the two environments have over the running one, `references`
    what the good one measured, `asked` the packages that were asked for, `base_requirements` the
    requirements that the good one was made of; for `same_files` see `judge`. `loaded` has, by case,
    the packages of which it loads a module: others can do nothing alone. Returns one result per
    finding; nothing if fewer than two packages changed.
    """
    before, after = ({one.name: one for one in planned} for planned in (base, candidate))
    names = sorted(likely_first(_differing(before, after)), key=lambda name: name not in asked)
    if len(names) < 2 or not findings:  # noqa: PLR2004  (one package needs no trial)
        return ()
    examples = [references[one.example.case].record.case for one in findings]
    examples = list(dict.fromkeys(examples))
    trains = any(finding.cause.strand != "costs" for finding in findings)
    known = known_curves(references)
    if all(case.id in loaded for case in examples):
        names = [name for name in names if any(name in loaded[case.id] for case in examples)]
        if len(names) == 1:
            alone = ResponsiblePackages(alone=(names[0],), without_effect=(), untried=())
            return (alone,) * len(findings)
    shown: dict[str, tuple[bool, ...]] = {}
    why = f"only the first {_MOST_TRIALS} packages are tried"
    untried = dict.fromkeys(names[_MOST_TRIALS:], why)
    for name in names[:_MOST_TRIALS]:
        new = after.get(name)
        progress(f"trying {name} {new.version if new else 'as it is here'} alone")
        untried[name] = "it needs the whole change"
        for attempt in _attempts(name, before, new, base_requirements, setup.pip):
            try:
                with attempt as overlay:
                    tried = {one.name: one for one in overlay.planned}
                    others = [one for one in _differing(before, tried) if one != name]
                    differing = _differing(tried, after)
                    foreign = [one for one in others if one in differing]
                    if foreign:
                        # Another release than the candidate's may do what that does.
                        untried[name] = f"pip changes {_named(foreign, tried)} with it"
                    if foreign or not differing:
                        continue  # the whole candidate would show nothing about one package
                    title = f"{name} with {', '.join(others)}" if others else name
                    run = measure_cases(
                        examples,
                        python=overlay.python,
                        setup=setup,
                        planned=overlay.planned,
                        trains=trains,
                        known=known,
                    )
                    observed = observations_of(run, "alone")
                    shown[title] = _shown(findings, references, observed, same_files=same_files)
            except InputError as error:
                untried[name] = str(error).rpartition("bin/python: ")[2]
            else:
                del untried[name]
                break
    return tuple(
        ResponsiblePackages(
            alone=tuple(one for one in shown if shown[one][index] and one in names),
            together=tuple(one for one in shown if shown[one][index] and one not in names),
            without_effect=tuple(one for one in shown if not shown[one][index]),
            untried=tuple(untried.items()),
            asked=tuple(asked),
        )
        for index in range(len(findings))
    )


def _attempts(
    name: str, before: Mapping[str, Planned], new: Planned | None, wanted: Sequence[str], pip: Pip
) -> Iterator[AbstractContextManager[Overlay]]:
    """Yield a package with nothing else; then, if it does not import, with what pip says."""
    others = [one for one in before.values() if one.name != name]
    yield opened_part((*others, new) if new else others, pip)
    if new is not None:
        pairs = ((canonicalize_name(Requirement(text).name), text) for text in wanted)
        kept = (text for other, text in pairs if other != name)
        yield opened_overlay((*kept, new.source), replace(pip, replace_torch=False))


def _differing(one: Mapping[str, Planned], other: Mapping[str, Planned]) -> list[str]:
    """Return the packages whose versions differ between two environments."""
    sides = ({name: planned.version for name, planned in side.items()} for side in (one, other))
    return [*changed_packages(*sides)]


def _named(names: Sequence[str], planned: Mapping[str, Planned]) -> str:
    """Return what packages change to; what is not planned is as it is here."""
    to = {name: f"to {planned[name].version}" for name in names if name in planned}
    return " and ".join(f"{name} {to.get(name, 'back')}" for name in names)


def _shown(
    findings: Sequence[Finding],
    references: Observations,
    observed: Observations,
    *,
    same_files: bool,
) -> tuple[bool, ...]:
    """Return which findings an environment shows."""
    found = set()
    for verdict in judge(references, observed, expected=observed, same_files=same_files).cases:
        name = verdict.id
        causes = causes_of(verdict, references.get(name), observed.get(name))
        found |= {(name, cause.strand, cause.what) for cause, _ in causes}
    keys = ((one.example.case, one.cause.strand, one.cause.what) for one in findings)
    return tuple(key in found for key in keys)
