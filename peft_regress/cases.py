"""A case, its id, and which letters ids, versions and digests may have.

Parts of ids, versions and digests come from files that others wrote, and end in paths, git
branches, commands and scripts. So each is of a type that says which letters it may have: msgspec
checks them wherever a record is decoded, and nothing behind that needs to.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Self, TypeGuard

import msgspec

from peft_regress.errors import InputError, UnknownNameError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_NAME: Final = r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}"
_DATA_FILE: Final = rf"(?=.*\.(?:json|safetensors)\Z){_NAME}"
_VERSION: Final = _NAME.replace("+", "+!")  # PEP 440 has an epoch: `1!2.0`
_DIGEST: Final = "(sha256:)?[A-Za-z0-9]{1,128}"
_ADDRESS: Final = "sha256:[0-9a-f]{64}"
_MOMENT: Final = "[0-9-]{10}T[0-9:.]+(Z|[+-][0-9:]+)"

NAME_RULE: Final = (
    "up to 128 letters (a-z), digits and _ . + -, first a letter, a digit or _, nowhere two dots"
)
"""What a name may be, in words."""


def _pattern(*parts: str) -> str:
    return f"^{'/'.join(parts)}\\Z"


Name = Annotated[str, msgspec.Meta(pattern=_pattern(_NAME))]
"""A part of a case id, the name of a package or of a file."""
DataFile = Annotated[str, msgspec.Meta(pattern=_pattern(_DATA_FILE))]
"""The name of a file that nothing runs: no pickle, no module."""
CaseId = Annotated[str, msgspec.Meta(pattern=_pattern(_NAME, _NAME, _NAME))]
Version = Annotated[str, msgspec.Meta(pattern=_pattern(_VERSION))]
Digest = Annotated[str, msgspec.Meta(pattern=_pattern(_DIGEST))]
Address = Annotated[str, msgspec.Meta(pattern=_pattern(_ADDRESS))]
"""The digest of a ledger, an adapter or an entry: a path may be built from it."""
Moment = Annotated[str, msgspec.Meta(pattern=_pattern(_MOMENT))]
"""ISO 8601 with a time zone."""
Rank = Annotated[int, msgspec.Meta(ge=1, lt=10**9)]

_RULES: Final = {
    _pattern(_NAME): f"a name: {NAME_RULE}",
    _pattern(_DATA_FILE): f"a .safetensors or .json file: {NAME_RULE}",
    _pattern(_NAME, _NAME, _NAME): f"a case id: three names with / between, each {NAME_RULE}",
    _pattern(_VERSION): f"a version: {NAME_RULE}, or !",
    _pattern(_DIGEST): "a digest: letters (a-z) and digits, as in sha256:0123abcd",
    _pattern(_MOMENT): "a time with its zone, as in 2026-01-02T03:04:05+00:00",
    _pattern(_ADDRESS): "a SHA-256 digest: sha256: and 64 digits of 0-9 and a-f",
}

_RANKED = re.compile(r"(?P<method>.+)-r(?P<rank>[1-9][0-9]{0,8})")

BFLOAT16_SUFFIX = "-bf16"
"""The end of the name of a method whose base model is in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """A case without its task: the cost of a training step depends on nothing else."""

    method: str
    architecture: str
    rank: int | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method on an architecture and a task, at a rank."""

    task: Name
    method: Name
    architecture: Name
    rank: Rank | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id such as `shift/lora-r4/resnet18`; looks up no name. Raises `InputError`."""
        task, ranked, architecture = split_case_id(text)
        method, rank = split_adapter_name(ranked)
        return cls(task=task, method=method, architecture=architecture, rank=rank)

    @property
    def id(self) -> str:
        """Return `<task>/<method>-r<rank>/<architecture>`, without `-r` if there is no rank."""
        return f"{self.task}/{self.adapter_name}/{self.architecture}"

    def __str__(self) -> str:
        return self.id

    @property
    def adapter_name(self) -> str:
        """Return the method with its rank: `lora-r4`."""
        return self.method if self.rank is None else f"{self.method}-r{self.rank}"

    @property
    def adaptation(self) -> Adaptation:
        """Return the case without its task, on which the cost of a training step depends."""
        return Adaptation(method=self.method, architecture=self.architecture, rank=self.rank)


def split_adapter_name(text: str) -> tuple[str, int | None]:
    """Return method and rank of a name such as `lora-r4`; looks up no name."""
    match = _RANKED.fullmatch(text)
    return (match["method"], int(match["rank"])) if match else (text, None)


def is_name(text: object) -> bool:
    """Return whether a text can be a part of a case id, as `NAME_RULE` says."""
    return isinstance(text, str) and re.fullmatch(_NAME, text) is not None


def is_version(text: object) -> TypeGuard[str]:
    """Return whether a text can be a version in a run file."""
    return isinstance(text, str) and re.fullmatch(_VERSION, text) is not None


def is_data_file(text: str) -> bool:
    """Return whether a file of this name may be stored beside a run."""
    return re.fullmatch(_DATA_FILE, text) is not None


def is_word(text: object) -> bool:
    """Return whether a text can name a metric, which is only ever shown: more than a name may."""
    if not isinstance(text, str):
        return False
    return text.isprintable() and re.fullmatch(r"[^ /*?\[\]]+", text) is not None


def in_words(message: str) -> str:
    """Return a message of msgspec with the rule in place of its pattern."""
    for pattern, rule in _RULES.items():
        message = message.replace(f"`str` matching regex {pattern!r}", rule)
    return message


def split_case_id(text: str) -> list[str]:
    """Return task, method with rank, and architecture of a case id; looks up no name."""
    given: Any = text
    parts = given.split("/") if isinstance(given, str) else []
    if len(parts) != 3 or not all(map(is_name, parts)):  # noqa: PLR2004  (the three parts of an id)
        raise InputError(
            f"{text!r} is not a case id, which has the form <task>/<method>-r<rank>/<architecture>."
            f" Each part: {NAME_RULE}."
        )
    return parts


def matching_ids(known: Iterable[str], pattern: str) -> list[str]:
    """Return the ids that match a glob, sorted. Raises `UnknownNameError` with the closest."""
    every = sorted(known)
    found = [name for name in every if fnmatchcase(name, pattern)]
    if not found:
        closest = get_close_matches(pattern, every) or every[:3]
        raise UnknownNameError("case pattern", pattern, closest)
    return found
