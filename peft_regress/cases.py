"""A case: what is measured, and its id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from peft_regress.errors import InputError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_RANKED = re.compile(r"(?P<method>.+)-r(?P<rank>[1-9][0-9]*)")

BFLOAT16_SUFFIX = "-bf16"
"""The end of the name of a method whose base model is in bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What the cost of a training step depends on: a case without its task."""

    method: str
    architecture: str
    rank: int | None = None

    def __str__(self) -> str:
        method = self.method if self.rank is None else f"{self.method}-r{self.rank}"
        return f"{method}/{self.architecture}"


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured: one method on one architecture and task, at one rank."""

    task: str
    method: str
    architecture: str
    rank: int | None = None

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read an id such as `shift/lora-r4/resnet18`; looks up no name.

        Raises `InputError`.
        """
        task, ranked, architecture = split_case_id(text)
        method, rank = split_adapter_name(ranked)
        return cls(task=task, method=method, architecture=architecture, rank=rank)

    @property
    def id(self) -> str:
        """Return `<task>/<method>-r<rank>/<architecture>`, without `-r` if there is no rank."""
        return f"{self.task}/{self.adaptation}"

    def __str__(self) -> str:
        return self.id

    @property
    def adapter_name(self) -> str:
        """Return the method with its rank: `lora-r4`."""
        return self.method if self.rank is None else f"{self.method}-r{self.rank}"

    @property
    def adaptation(self) -> Adaptation:
        """Return what the cost of a training step depends on: the case without its task."""
        return Adaptation(method=self.method, architecture=self.architecture, rank=self.rank)


def split_adapter_name(text: str) -> tuple[str, int | None]:
    """Return method and rank of a name such as `lora-r4`; looks up no name."""
    match = _RANKED.fullmatch(text)
    return (match["method"], int(match["rank"])) if match else (text, None)


def is_name(text: object) -> bool:
    """Return whether a text can be a part of a case id."""
    if not isinstance(text, str):
        return False
    spoils_id = any(c in "/*?[]" or c.isspace() or not c.isprintable() for c in text)
    return bool(text) and not spoils_id


def split_case_id(text: str) -> list[str]:
    """Return task, method with rank, and architecture of a case id; looks up no name.

    Raises `InputError`.
    """
    given: Any = text
    parts = given.split("/") if isinstance(given, str) else []
    if len(parts) != 3 or not all(map(is_name, parts)):  # noqa: PLR2004  (the three parts of an id)
        msg = (
            f"{text!r} is not a case id, which has the form <task>/<method>-r<rank>/<architecture>"
        )
        raise InputError(msg)
    return parts
