"""Read the list of defects that the fuzzer should find again, and tell whether a finding is one."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft_fuzz.search.findings import Finding

__all__ = ["LIST", "Defect", "Issue", "Known", "Sign", "read_known"]

LIST: Final = Path(__file__).resolve().with_name("rediscovery.toml")

Kind = Literal["checkpoint", "convolution", "cost", "dtype", "function", "life", "merge"]
Version = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+\Z")]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the list."""


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
            all(_matches(text, patterns) for text, patterns in named)
            and {*self.traits} <= {*cause.traits}
            and not {*self.without} & {*cause.traits}
            and re.search(self.message, finding.failure.message) is not None
            and re.search(self.example, example) is not None
        )


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


class _Sought(_Entry, frozen=True, kw_only=True):
    """What the fuzzer is to find.

    Attributes:
        beyond: Why it cannot, if that is known; then there are no signs.

    """

    signs: tuple[Sign, ...] = ()
    beyond: str = ""

    def is_shown_by(self, finding: Finding) -> bool:
        """Return whether one of the signs fits a finding."""
        return any(sign.fits(finding) for sign in self.signs)


class Issue(_Sought, frozen=True, kw_only=True):
    """A defect that upstream has mended.

    Attributes:
        number: Of the pull request that mended it.
        reported: The number of the report.
        part: Which of several defects of that pull request.
        broken: The last release that has it.
        mended: The first release that does not, and runs beside today's packages.

    """

    number: int
    reported: int | None = None
    part: str = ""
    title: str
    broken: Version
    mended: Version
    kinds: tuple[Kind, ...]

    @property
    def name(self) -> str:
        """Return how tables and results call it."""
        return f"#{self.number} ({self.part})" if self.part else f"#{self.number}"


class Defect(_Sought, frozen=True, kw_only=True):
    """A defect that docs/findings describes, of a release that nothing mends yet."""

    page: str
    release: Version

    @property
    def name(self) -> str:
        """Return how tables and results call it."""
        return self.page


class Known(_Entry, frozen=True, kw_only=True):
    """The list.

    Attributes:
        environments: What a release needs beside itself.

    """

    schema_version: Literal[1]
    environments: dict[Version, tuple[str, ...]]
    issue: tuple[Issue, ...]
    finding: tuple[Defect, ...]

    @property
    def releases(self) -> list[str]:
        """Return the releases to search, oldest first."""
        from packaging.version import Version as Parsed

        found = {one.broken for one in self.issue} | {one.release for one in self.finding}
        return sorted(found, key=Parsed)

    def requirements(self, release: str) -> tuple[str, ...]:
        """Return the requirements of the environment with a release."""
        return (f"peft=={release}", *self.environments.get(release, ()))


def read_known(path: Path = LIST) -> Known:
    """Read the list. Raises `InputError` for one that contradicts itself or its form."""
    try:
        known = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Known)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path}: {error}") from error
    names: set[str] = set()
    every: tuple[Issue | Defect, ...] = (*known.issue, *known.finding)
    for one in every:
        if one.name in names:
            raise InputError(f"{path}: {one.name} is there twice; tell them apart by `part`")
        names.add(one.name)
        if bool(one.signs) == bool(one.beyond):
            raise InputError(
                f"{path}: {one.name} needs either signs or a reason why it is beyond the fuzzer"
            )
        for sign in one.signs:
            _check_expressions(path, one.name, sign)
    return known


def _check_expressions(path: Path, name: str, sign: Sign) -> None:
    for text in (sign.message, sign.example):
        try:
            re.compile(text)
        except re.error as error:
            raise InputError(
                f"{path}: {name}: {text!r} is no regular expression: {error}"
            ) from error
