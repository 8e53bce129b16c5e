"""Every error that peft_regress raises on purpose, under one root.

A message says what failed, the value, where, and the command that fixes it. The values are also
attributes of the exception, so that callers need not parse text.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from peft_regress.text import clean, printable

_LONGEST_PROBLEM = 400


class PeftRegressError(Exception):
    """Root of every error raised on purpose by this package; a message of it is one line."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*map(printable, problems))


class InputError(PeftRegressError):
    """Wrong use or unreadable input: exit code 2 on the command line."""


class RefusedAdapterError(InputError):
    """A library refuses to put a case's adapter on its model: recorded, the case is unsupported."""


class AbsentError(PeftRegressError):
    """Something that was named does not exist: exit code 3 on the command line."""


class UnknownNameError(InputError):
    """An unknown name of a method, architecture, task, case or the like.

    `unlisted` has more names by family, too many to show; the closest match may be one of them.
    """

    def __init__(
        self,
        what: str,
        name: str,
        known: Iterable[str],
        *,
        unlisted: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        known, families = sorted(known), unlisted or {}
        # Sorted, so that of two equally close names the hint is always the same.
        candidates = sorted({*known, *chain.from_iterable(families.values())})
        close = difflib.get_close_matches(name, candidates, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(known) or "none is registered"
        more = "".join(f", {len(names)} of {family}" for family, names in families.items())
        super().__init__(f"unknown {what} {name!r}.{hint} Known: {listed}{more}.")


class RunFileError(InputError):
    """A run file that cannot be trusted: unreadable, altered, or of another schema.

    remedy: empty where whoever reads the whole storage knows it.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str = "") -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        # A key or a name from the file may contain anything; the message stays one line.
        shown = clean(problem, longest=_LONGEST_PROBLEM)
        super().__init__(f"{path}: {shown}. {remedy}")


class SourceError(AbsentError):
    """A source checkpoint is missing or differs from the recorded bytes."""


class UnsupportedCaseError(PeftRegressError):
    """A method cannot adapt a model: no eligible module, or the library refuses it."""


class FilledLossError(PeftRegressError):
    """An adapter filled with seeded numbers gives a loss that is NaN or infinite."""


class NonFiniteLossError(PeftRegressError):
    """Training produced a loss that is NaN or infinite."""

    def __init__(self, *, step: int, loss: float, seed: int) -> None:
        super().__init__(f"loss became {loss} at step {step} of seed {seed}")
