"""A case: what is measured, and its id."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from peft_regress.errors import InputError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

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

    @property
    def id(self) -> str:
        """Return `<task>/<method>-r<rank>/<architecture>`, without `-r` if there is no rank."""
        return f"{self.task}/{self.adaptation}"

    def __str__(self) -> str:
        return self.id

    @property
    def adaptation(self) -> Adaptation:
        """Return what the cost of a training step depends on: the case without its task."""
        return Adaptation(method=self.method, architecture=self.architecture, rank=self.rank)


def split_case_id(text: str) -> list[str]:
    """Return task, method with rank, and architecture of a case id; looks up no name.

    Raises `InputError`.
    """
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004  (the three parts of an id)
        msg = (
            f"{text!r} is not a case id, which has the form <task>/<method>-r<rank>/<architecture>"
        )
        raise InputError(msg)
    return parts
