"""Let the fuzzer search old releases of peft for defects that later ones mended.

    python fuzz/tools/rediscovery.py                      search each release, decide, print
    python fuzz/tools/rediscovery.py --minutes 2          a shorter search of each release
    python fuzz/tools/rediscovery.py --releases 0.15.2    only these
    python fuzz/tools/rediscovery.py --list               the defects, and where they are sought
    python fuzz/tools/rediscovery.py --write              write the tables of docs/fuzz-evidence.md
    python fuzz/tools/rediscovery.py --check              exit 1 if the page has other tables

`rediscovery.toml` has the defects and the signs of each. A defect counts as found if a finding of
the last release that has it fits a sign, and the finding's example runs without a failure on the
first release that mended it. All that is found is kept in `runs/rediscovery`; a release that was
searched to the end is not searched again. The results are in `rediscovery_results.json`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from packaging.version import Version
from pages import EVIDENCE, ROOT, mode_options, renew, search_options, write_results

from peft_fuzz.methods import METHODS
from peft_fuzz.search.findings import Finding, read_findings
from peft_fuzz.search.fuzz import INTERRUPTED, FuzzSettings, fuzz
from peft_fuzz.search.workers import LifeWorker
from peft_regress.errors import InputError, PeftRegressError
from peft_regress.files import make_folder
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.overlay.overlay import opened_overlay

HERE: Final = Path(__file__).resolve().parent
LIST: Final = HERE / "rediscovery.toml"
RESULTS: Final = HERE / "rediscovery_results.json"
PAGE: Final = EVIDENCE
FOLDER: Final = ROOT / "runs" / "rediscovery"
TABLES: Final = ("count", "issues")
_PULL: Final = "https://github.com/huggingface/peft/pull"
_STRICT: Final = frozenset({"checkpoint", "convolution", "dtype", "merge"})
_SEARCHED: Final = "searched.json"
"""In the folder of a release that was searched to the end."""

Kind = Literal["checkpoint", "convolution", "cost", "dtype", "function", "life", "merge"]
Release = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+\Z")]


# --- The list -------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a file."""


class Sign(_Entry, frozen=True, kw_only=True):
    """What a finding must be, to be the defect; what is empty does not matter.

    Attributes:
        methods, checks, acts, errors, where: Globs on the parts of the finding's cause, one of
            which must match. `acts` is the kind of the act that failed.
        traits: What its example must need.
        without: What its example must not need.
        message: A regular expression that the failure's message must have.
        example: The same, for the example's JSON.

    """

    methods: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    acts: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    message: str = ""
    example: str = ""

    def fits(self, finding: Finding) -> bool:
        """Return whether a finding has all that the sign says."""
        cause = finding.cause
        named = (
            (cause.method, self.methods),
            (cause.check, self.checks),
            (cause.act, self.acts),
            (cause.error or "", self.errors),
            (cause.where or "", self.where),
        )
        example = msgspec.json.encode(finding.example).decode()
        return (
            all(
                not globs or any(fnmatchcase(text, glob) for glob in globs) for text, globs in named
            )
            and {*self.traits} <= {*cause.traits}
            and not {*self.without} & {*cause.traits}
            and re.search(self.message, finding.failure.message) is not None
            and re.search(self.example, example) is not None
        )


class Issue(_Entry, frozen=True, kw_only=True):
    """A defect that upstream has mended.

    Attributes:
        number: Of the pull request that mended it.
        reported: The number of the report.
        part: Which of several defects of that pull request.
        broken: The last release that has it.
        mended: The first release that does not, and runs beside today's packages.
        beyond: Why the fuzzer cannot find it; then there are no signs.

    """

    number: int
    reported: int | None = None
    part: str = ""
    title: str
    broken: Release
    mended: Release
    kinds: tuple[Kind, ...]
    signs: tuple[Sign, ...] = ()
    beyond: str = ""

    @property
    def name(self) -> str:
        """Return how tables and results call it."""
        return f"#{self.number} ({self.part})" if self.part else f"#{self.number}"

    @property
    def link(self) -> str:
        """Return a link to the pull request, with the title."""
        part = f" ({self.part})" if self.part else ""
        return f"[#{self.number}]({_PULL}/{self.number}){part}: {self.title}"


class Known(_Entry, frozen=True, kw_only=True):
    """The list; `environments` has what a release needs beside itself."""

    schema_version: Literal[1]
    environments: dict[Release, tuple[str, ...]]
    issue: tuple[Issue, ...]

    @property
    def releases(self) -> list[str]:
        """Return the releases to search, oldest first."""
        return sorted({one.broken for one in self.issue}, key=Version)

    def requirements(self, release: str) -> tuple[str, ...]:
        """Return the requirements of the environment with a release."""
        return (f"peft=={release}", *self.environments.get(release, ()))


def read_known(path: Path = LIST) -> Known:
    """Read the list. Raises `InputError` for one that contradicts itself or its form."""
    try:
        known = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Known)
        for sign in (sign for one in known.issue for sign in one.signs):
            re.compile(sign.message)
            re.compile(sign.example)
    except (OSError, ValueError, re.error) as error:  # those of tomllib and msgspec are ValueErrors
        raise InputError(f"{path}: {error}") from error
    names: set[str] = set()
    for one in known.issue:
        if one.name in names:
            raise InputError(f"{path}: {one.name} is there twice; tell them apart by `part`")
        names.add(one.name)
        if bool(one.signs) == bool(one.beyond):
            raise InputError(
                f"{path}: {one.name} needs either signs or a reason why it is beyond the fuzzer"
            )
    return known


# --- The results ----------------------------------------------------------------------------------


class Searched(_Entry, frozen=True, kw_only=True):
    """The search of one release."""

    release: str
    packages: dict[str, str]
    seconds: float
    lives: int
    findings: int


class Decided(_Entry, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a defect was found.

    Attributes:
        name: Of the defect.
        state: `found`, `missed`, `beyond` the fuzzer, or `open`: its release was not searched.
        finding: The name of the first finding that shows it.
        message: What failed.

    """

    name: str
    state: Literal["found", "missed", "beyond", "open"]
    finding: str = ""
    message: str = ""


class Results(_Entry, frozen=True, kw_only=True):
    """All results."""

    schema_version: Literal[2] = 2
    jobs: int
    searched: tuple[Searched, ...]
    issues: tuple[Decided, ...]

    @property
    def states(self) -> dict[str, str]:
        """Return what was decided by the name of the defect."""
        return {one.name: one.state for one in self.issues}


def read_results(path: Path) -> Results:
    """Read results. Raises `InputError` if there are none or they have another form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        remedy = "Make them with `python fuzz/tools/rediscovery.py`."
        raise InputError(f"{path}: {error}. {remedy}") from error


# --- Searching and deciding -----------------------------------------------------------------------


def search(release: str, known: Known, chosen: argparse.Namespace) -> bool:
    """Search a release unless that was done; return whether it was searched to the end."""
    folder: Path = chosen.folder / release
    if (folder / _SEARCHED).exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder / "findings")
    settings = FuzzSettings(
        corpus=folder / "no corpus",
        save=folder / "findings",
        minutes=chosen.minutes,
        jobs=chosen.jobs,
        seed=chosen.seed,
        ranges=False,
    )
    result = fuzz(
        known.requirements(release), settings, progress=lambda text: _say(f"peft {release}: {text}")
    )
    for problem in result.problems:
        _say(f"peft {release}: {problem}")
    if INTERRUPTED in result.problems:
        return False
    searched = Searched(
        release=release,
        packages=result.packages,
        seconds=round(result.seconds, 1),
        lives=sum(result.counts.lives.values()),
        findings=len(_findings(folder)),
    )
    write_results(folder / _SEARCHED, searched)
    return True


def _findings(folder: Path) -> dict[str, Finding]:
    """Return what was found in a release, by name."""
    return {one.name: one for _, one in read_findings(folder / "findings")}


def failures_on(findings: Mapping[str, Finding], requirements: Sequence[str]) -> dict[str, str]:
    """Run the example of each finding in another environment; return how it fails there."""
    with (
        opened_overlay(requirements, replace_torch=False, pre=False, seconds=600) as overlay,
        LifeWorker(overlay.python, tuple(METHODS)) as worker,
    ):
        worker.begin()
        found = {name: worker.live(one.example).failure for name, one in findings.items()}
    return {name: "" if one is None else one.message for name, one in found.items()}


def decide(known: Known, folder: Path, *, jobs: int) -> Results:
    """Decide for each defect, by what is in the folder of the searches."""
    searched: list[Searched] = []
    failures: dict[tuple[str, str], dict[str, str]] = {}
    findings: dict[str, dict[str, Finding]] = {}
    for release in known.releases:
        path = folder / release / _SEARCHED
        if not path.exists():
            continue
        searched.append(msgspec.json.decode(path.read_bytes(), type=Searched))
        findings[release] = _findings(folder / release)
        for later in sorted({one.mended for one in known.issue if one.broken == release}):
            _say(f"peft {release}: its findings on {later}")
            failures[release, later] = failures_on(findings[release], known.requirements(later))
    issues = tuple(
        _decided(one, findings.get(one.broken), failures.get((one.broken, one.mended), {}))
        for one in known.issue
    )
    return Results(jobs=jobs, searched=tuple(searched), issues=issues)


def _decided(
    issue: Issue, findings: Mapping[str, Finding] | None, later: Mapping[str, str]
) -> Decided:
    if issue.beyond:
        return Decided(name=issue.name, state="beyond")
    if findings is None:
        return Decided(name=issue.name, state="open")
    for name, finding in findings.items():
        if later[name] == "" and any(sign.fits(finding) for sign in issue.signs):
            message = finding.failure.message[:200]
            return Decided(name=issue.name, state="found", finding=name, message=message)
    return Decided(name=issue.name, state="missed")


# --- Showing --------------------------------------------------------------------------------------


def lines(known: Known, results: Results | None = None) -> Iterator[str]:
    """Yield a line for each defect, and what was decided."""
    states = {} if results is None else results.states
    for one in known.issue:
        yield f"{one.broken:<8}{one.name:<16}{states.get(one.name, ''):<8}{one.title}"
    if results is not None:
        yield _count(known, results)


def tables(known: Known, results: Results) -> dict[str, str]:
    """Return what stands between the markers of the page, by name."""
    states = results.states
    rows = ["| last broken in | sought | found | missed |", "| --- | ---: | ---: | --- |"]
    for release in known.releases:
        sought = [one for one in known.issue if one.broken == release and not one.beyond]
        found = sum(states[one.name] == "found" for one in sought)
        missed = "; ".join(one.link for one in sought if states[one.name] == "missed")
        rows.append(f"| {release} | {len(sought)} | {found} | {missed} |")
    beyond = [f"- {one.link}: {one.beyond}." for one in known.issue if one.beyond]
    text = "Not sought, since the fuzzer cannot find them:"
    return {
        "count": _count(known, results),
        "issues": "\n".join([*rows, "", text, "", *beyond]),
    }


def _count(known: Known, results: Results) -> str:
    states = results.states
    numbers = {
        what: [*states.values()].count(what) for what in ("found", "missed", "beyond", "open")
    }
    strict = [one for one in known.issue if _STRICT & {*one.kinds}]
    of_strict = sum(states[one.name] == "found" for one in strict)
    text = (
        f"Of {len(known.issue)} defects that upstream has mended, the fuzzer found "
        f"{numbers['found']}, missed {numbers['missed']}, and cannot find {numbers['beyond']}. Of "
        f"the {len(strict)} about convolutions, merging, data types or checkpoints it found "
        f"{of_strict}."
    )
    later = f" {numbers['open']} are in releases not searched yet."
    return text + (later if numbers["open"] else "")


# --- The command ----------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser, mode = mode_options(__doc__)
    search_options(parser, RESULTS)
    mode.add_argument("--list", action="store_true", help="print the defects, search nothing")
    parser.add_argument("--releases", nargs="+", metavar="VERSION", help="search only these")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each release")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what was found so far")
    return parser.parse_args(arguments)


def _searched(known: Known, chosen: argparse.Namespace) -> bool:
    """Search the chosen releases; return whether all were searched to the end."""
    unknown = sorted({*(chosen.releases or ())} - {*known.releases})
    if unknown:
        every = ", ".join(known.releases)
        raise InputError(f"no defect is sought in {unknown[0]}; releases: {every}")
    with ending_signals_interrupt():
        return all(search(one, known, chosen) for one in chosen.releases or known.releases)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and decide, or do what an option says; return the exit code."""
    chosen = _parsed(arguments)
    try:
        known = read_known()
        if chosen.list:
            print("\n".join(lines(known)))
            return 0
        if chosen.write or chosen.check:
            made = tables(known, read_results(chosen.results))
            return renew(PAGE, "fuzz-evidence", made, writes=chosen.write)
        is_whole = _searched(known, chosen)
        results = decide(known, chosen.folder, jobs=chosen.jobs)
        write_results(chosen.results, results)
        print("\n".join(lines(known, results)))
    except PeftRegressError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
    return 0 if is_whole else 3


if __name__ == "__main__":
    sys.exit(main())
