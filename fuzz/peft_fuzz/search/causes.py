"""Tell findings apart: two failures are one cause if they fail alike and need the same things.

Two failures *fail alike* if the method, the check, the kind of the act, the type of the exception
and the innermost function of the library agree. That alone is too coarse: merging a convolution
that pads by reflection and merging an adapter with a bias may break the same promise, by no
exception, for two reasons. So a cause also has what its example needs besides the plainest network
and life: its *traits*. They are read off the example after it was made as small as possible, when
whatever the failure does not need is gone.

A failing example belongs to a known cause if it fails alike and has all traits of that cause,
perhaps more: a cause that needs a padding mode also explains the failure of a network with that
padding mode and two layers. An example with two causes counts for the known one; others will show
the second one alone. Two paths to one defect (after a merge, after loading) may be two causes, so
that a second defect is never taken for the first.

Acts that do the same by definition are one: leaving `disable_adapter` is enabling, whatever takes
merged weights out is unmerging, and a network that is converted to half precision is one in half
precision. A method that runs another one's layers, as DoRA runs LoRA's, has that one's causes, too.

Much of a library is shared by its methods, and so are the defects in it. A failure in shared code
that two other methods are known to have is not sought again for each further method: with 30 of
them, nothing else would be found. It counts as known if it is no promise of a method's own formula
that fails, and no exception out of a method's own module.

For people, one function's failures are one group, whatever the method; where no exception names a
function, those that need the same network and acts are, unless it is a method's own formula that
fails. Thus a defect in code that methods share, as in a base class, is told once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from peft_fuzz.acts import KINDS, AnyAct, Wrap
from peft_fuzz.acts.act import follow
from peft_fuzz.example import Example, Failure
from peft_fuzz.methods import METHODS
from peft_fuzz.oracle.checks import CHECKS, CRASH
from peft_fuzz.oracle.plan import Plan
from peft_fuzz.search.traits import COPIES, traits_of

_NAME: Final = r"^[a-z][a-z0-9_]{0,39}\Z"
Name = Annotated[str, Meta(pattern=_NAME)]
"""The name of a method, a check or an act: it becomes part of a file's name."""

_SHARED_MODULES: Final = re.compile(r"(tuners\.(tuners_utils|lycoris_utils)|utils\..*|[a-z_]+):")
"""Of the library, the modules without a method of their own."""
_SHARED_SETTINGS: Final = frozenset({f"setting {COPIES}", "setting bias=all"})
"""The settings of which the base class takes care."""
_ENOUGH: Final = 2
"""So many other methods show that a failure is one of shared code."""

_COMPUTED: Final = frozenset({"cost", "function", "gradient"})
"""The checks of what a call computes, whatever filled the adapter before."""
_WHILE_DISABLED: Final = frozenset({"disabled", "exception", CRASH})
"""The checks that fail inside a block of `disable_adapter`; the others do so after it."""
_OF_BASE_WEIGHTS: Final = frozenset({"layout", "unmerged"})
"""The checks of what the base weights are once merged adapters are taken out."""


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a finding one of its own.

    Attributes:
        method: As in the example.
        check: What did not hold.
        act: The kind of the act after which it did not hold: `wrap` for wrapping.
        error: The type of an exception.
        where: The innermost function of the library that it passed through.
        traits: What the smallest example needs, sorted.

    """

    method: Name
    check: Name
    act: Name
    error: str | None = None
    where: str | None = None
    traits: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return a short name without blanks, that of its file."""
        content = msgspec.json.encode(self, order="deterministic")
        return f"{self.method}-{self.check}-{hashlib.sha256(content).hexdigest()[:8]}"

    def fails_like(self, other: Cause) -> bool:
        """Return whether two causes are equal but for the traits.

        What a call costs or computes is one cause whichever act filled the adapter, what unmerging
        leaves is one whichever act unmerges, and what a function of the library raises is one
        whichever act calls it.
        """
        return self._failure == other._failure

    @property
    def _failure(self) -> tuple[str | None, ...]:
        return (self.method, self.check, self._stage, self.error, self.where)

    @property
    def _stage(self) -> str:
        """Return the kind of the act, or one name for those that do the same.

        That is `call` if any act that fills an adapter would do, or if a function of the library
        raises; of the cost, which is asked at the end of a life, each act that does not merge.
        """
        act = KINDS.get(self.act, AnyAct)
        if self.where is not None or (self.check in _COMPUTED and act.computes_as_filled):
            return "call"
        if self.check == "cost":
            return self.act if self.act == "merge" else "call"
        is_unmerging = act.takes_out and "after merge" in self.traits
        return "unmerge" if self.check in _OF_BASE_WEIGHTS and is_unmerging else self.act

    def explains(self, other: Cause) -> bool:
        """Return whether a failure of the cause `other` is one of this cause."""
        runner = METHODS.get(other.method)
        if runner is not None and runner.runs == self.method:
            other = msgspec.structs.replace(other, method=self.method)
        return self.fails_like(other) and set(self.traits) <= set(other.traits)

    @property
    def group(self) -> tuple[str, ...]:
        """Return what groups causes for people: equal in the methods that share a defect."""
        if self.where is not None:
            return (self.check, self.error or "", self.where)
        if self.check == "cost":  # asked at the end of a life, whatever was done in it
            return (
                self.check,
                self.method,
                *(t for t in self.traits if not t.startswith("after ")),
            )
        # Each method has its own formula.
        of_formula = self.check in {"function", "gradient"}
        if of_formula and f"setting {COPIES}" not in self.traits:
            return (self.check, self._stage, self.method, *self.traits)
        return (self.check, self._stage, *_shared_traits(self))


def cause_of(example: Example, failure: Failure) -> Cause:
    """Return the cause of a failure, with the traits that the example has."""
    position = failure.act
    if failure.check == "cost":  # which is looked at once, at the end of the life
        while position >= 0 and example.acts[position].changes_nothing:
            position -= 1
    done = _done(example, position, failure.check)
    return Cause(
        method=example.method,
        check=failure.check,
        act=(done[-1] if done else Wrap()).kind,
        error=failure.error,
        where=failure.where,
        traits=traits_of(example, done, is_refused=_must_be_refused(example, position)),
    )


def _must_be_refused(example: Example, position: int) -> bool:
    """Return whether the library must refuse the act at `position`."""
    if not 0 <= position < len(example.acts):
        return False
    plan = Plan.start(example, ())
    for act in example.acts[:position]:
        plan = follow(plan, act)
    return example.acts[position].refusal(plan) is not None


def _done(example: Example, position: int, check: str) -> list[AnyAct]:
    """Return the acts up to the one at `position`, blocks of `disable_adapter` as two acts."""
    done: list[AnyAct] = []
    for index, act in enumerate(example.acts[: position + 1]):
        parts = act.as_others()
        done += parts[:1] if index == position and check in _WHILE_DISABLED else parts
    return done


def is_known(cause: Cause, known: Sequence[Cause]) -> bool:
    """Return whether one of the known causes, or those of other methods, explain a failure."""
    if any(one.explains(cause) for one in known):
        return True
    if not _is_shared(cause):
        return False
    methods = {one.method for one in known if _without_method(one).explains(_without_method(cause))}
    return len(methods) >= _ENOUGH


def _is_shared(cause: Cause) -> bool:
    """Return whether a failure may be one of code that all methods share."""
    check = CHECKS.get(cause.check)
    if cause.check == CRASH or (check is not None and check.of_formula):
        return False
    return cause.where is None or _SHARED_MODULES.match(cause.where) is not None


def _without_method(cause: Cause) -> Cause:
    """Return a cause without its method and the settings of that method."""
    return msgspec.structs.replace(cause, method="any", traits=_shared_traits(cause))


def _shared_traits(cause: Cause) -> tuple[str, ...]:
    """Return the traits of a cause without the settings that one method has."""
    return tuple(
        one for one in cause.traits if one in _SHARED_SETTINGS or not one.startswith("setting ")
    )
