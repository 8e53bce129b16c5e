"""A case: what is measured, and its id."""

from __future__ import annotations

import msgspec

from peft_regress.errors import InputError

__all__ = ["BFLOAT16_SUFFIX", "Case", "Json", "split_case_id"]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

BFLOAT16_SUFFIX = "-bf16"
"""Ends the name of a method whose base model is in bfloat16."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pairing of the matrix."""

    task: str
    method: str
    architecture: str
    rank: int | None = None

    @property
    def id(self) -> str:
        """Return `<task>/<method>-r<rank>/<architecture>`, without `-r` where there is no rank."""
        ranked = self.method if self.rank is None else f"{self.method}-r{self.rank}"
        return f"{self.task}/{ranked}/{self.architecture}"

    def __str__(self) -> str:
        return self.id

    @property
    def adaptation(self) -> tuple[str, int | None, str]:
        """Return what the cost of a step depends on: method, rank and architecture, no task."""
        return (self.method, self.rank, self.architecture)


def split_case_id(text: str) -> list[str]:
    """Return the three parts of a case id, or raise `InputError`; no name is looked up."""
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004  (the three parts of an id)
        msg = f"{text!r} is not a case id: <task>/<method>-r<rank>/<architecture> is wanted"
        raise InputError(msg)
    return parts
