"""An example: a network, adapters of one method, and a life; and how running it ended."""

from __future__ import annotations

from peft_fuzz.acts import Act
from peft_fuzz.networks.network import AdaptedNetwork, Value


class Example(AdaptedNetwork, frozen=True, kw_only=True, omit_defaults=True):
    """A network, the adapters of one method, and the acts of a life."""

    acts: tuple[Act, ...] = ()
    autocast: bool = True


class Failure(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What did not hold.

    Attributes:
        act: The position of the act after which it did not hold; -1 for wrapping.
        error: The type of an exception.
        where: The innermost function of the library that an exception passed through, as
            `tuners.lora.layer:merge`.
    """

    check: str
    act: int
    message: str
    error: str | None = None
    where: str | None = None


class Outcome(Value, frozen=True, kw_only=True, omit_defaults=True):
    """How an example ended: a failure, a documented refusal, or neither.

    Attributes:
        refused: What the library said when it clearly refused an act: no failure.
        absent: The method or setting that this release does not have; nothing was tried.
        acts: How many acts were carried out.
    """

    failure: Failure | None = None
    refused: str | None = None
    absent: str | None = None
    acts: int = 0
