"""What every act knows of itself: when it makes sense, what it does, what must hold afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, ClassVar, Final, Self

from hypothesis import strategies as st
from msgspec.structs import replace as changed

from peft_fuzz.methods.method import Method, Stage
from peft_fuzz.networks.network import AdaptedNetwork, Value
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan

COPIED: Final = "copied"
"""The name that drawn acts have for a loaded adapter."""
SWAP_RANK: Final = 16


class Act(Value, frozen=True, kw_only=True, omit_defaults=True, tag_field="act"):
    """What is done with an adapted model.

    Attributes:
        title: What is done, for titles of findings.
        stage: Whether the library may refuse it by the limits of wrapping.
        may_refuse: Whether the library may refuse it by an error that it raises on purpose.
        is_usual: Whether it only fills an adapter, or another trait tells of it.
        computes_as_filled: Whether an unmerged adapter computes afterwards what its parameters say.
        takes_out: Whether it takes merged adapters out.

    """

    title: ClassVar[str]
    stage: ClassVar[Stage] = "call"
    may_refuse: ClassVar[bool] = False
    is_usual: ClassVar[bool] = False
    computes_as_filled: ClassVar[bool] = False
    takes_out: ClassVar[bool] = False

    @classmethod
    def tag(cls) -> str:
        """Return the name of such acts in stored examples."""
        return str(cls.__struct_config__.tag)

    @property
    def kind(self) -> str:
        """Return its name in stored examples."""
        return self.tag()

    @property
    def changes_nothing(self) -> bool:
        """Return whether it leaves the model as it was: a merge that is refused."""
        return False

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        """Return strategies for such acts: each field is drawn by what it is called."""
        return [st.builds(cls, **{name: choices.field(name) for name in cls.__struct_fields__})]

    def fitted(self, plan: Plan) -> Act:
        """Return a drawn act as it makes sense in a state: with adapters that are there."""
        if getattr(self, "adapter", None) in {None, *plan.settings}:
            return self
        return changed(self, adapter=[*plan.settings][-1])

    def is_legal(self, plan: Plan) -> bool:
        """Return whether the documentation says what the act does in this state."""
        raise NotImplementedError

    def refusal(self, plan: Plan) -> str | None:
        """Return why the library must refuse a legal act; None if it must carry it out."""
        return None

    def after(self, plan: Plan) -> Plan:
        """Return the state that it leads to."""
        return plan

    def carry_out(self, life: Life) -> None:
        """Carry it out with the library, and check what it alone can tell."""
        raise NotImplementedError

    def attempt(self, life: Life) -> None:
        """Do what the library must refuse."""
        self.carry_out(life)

    def change(self, plan: Plan) -> Change:
        """Return what it may change in a state, and what is checked for that."""
        return Change()

    def finish(self, life: Life, before: Plan) -> None:
        """Do what belongs to it once the plan has followed, before all is checked."""

    def check(self, life: Life, before: Plan, tensors: Mapping[str, Any]) -> None:
        """Raise NotHeldError if it left undone what it is for. tensors: of before."""

    def check_accepted(self, life: Life, reason: str) -> None:
        """Raise NotHeldError if it did harm, after the library did what it must refuse."""
        fail("accepted", f"No error was raised, though {reason}.")

    def traits(self) -> Iterator[str]:
        """Yield what a failure may need of it, besides that it is done."""
        yield from ()

    def named(self) -> Iterator[str]:
        """Yield the names of adapters that are new with it."""
        yield from ()

    def as_others(self) -> tuple[Act, ...]:
        """Return acts that do the same one after another."""
        return (self,)

    def lines(self, script: Lines) -> Iterator[str]:
        """Yield its lines in a script."""
        raise NotImplementedError


class Wrap(Act, frozen=True, kw_only=True, tag="wrap"):
    """Put the first adapter on the network; the start of every life, so no example names it."""

    title: ClassVar = "wrapping"
    computes_as_filled: ClassVar = True

    def change(self, plan: Plan) -> Change:
        import peft

        return Change(is_start=True, puts_in=tuple(plan.settings), through=peft.get_peft_model)

    def lines(self, script: Lines) -> Iterator[str]:
        first = script.on.adapters[0]
        yield f"torch.manual_seed({script.seed})"
        yield f"config = {script.configuration(first.name)}"
        yield f"model = get_peft_model(network, config{named(first.name)}{script.autocast})"
        yield "model.eval()"


def is_legal(plan: Plan, act: Act) -> bool:
    """Return whether the documentation says what an act does in this state."""
    return not plan.ended and act.is_legal(plan)


def follow(plan: Plan, act: Act) -> Plan:
    """Return the state after a legal act; the same if the library must refuse it."""
    return act.after(plan) if act.refusal(plan) is None else plan


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the drawn lives of an adapted network depend on."""

    names: tuple[str, ...]
    abilities: frozenset[str]
    with_copies: bool
    swap_rank: int

    @classmethod
    def of(cls, on: AdaptedNetwork, method: Method) -> Self:
        """Return the choices for a network and its adapters."""
        groups = lcm(*(layer.groups for layer in on.network.layers))
        ranks = [int(adapter.settings.get("r", 8)) for adapter in on.adapters]
        plan = Plan.start(on, method.abilities)
        return cls(
            names=tuple(dict.fromkeys(adapter.name for adapter in on.adapters)),
            abilities=method.abilities,
            with_copies=bool(plan.copies(plan.active[0]))
            or any("modules_to_save" in adapter.settings for adapter in on.adapters),
            swap_rank=groups * -(-max(SWAP_RANK, *ranks) // groups),
        )

    def field(self, name: str) -> st.SearchStrategy[Any]:
        """Draw a field of an act; most are options."""
        every = st.sampled_from([*self.names, COPIED])
        drawn: dict[str, st.SearchStrategy[Any]] = {
            "adapter": every,
            "adapters": st.lists(every, min_size=1, max_size=2, unique=True).map(tuple),
            "name": st.just(COPIED),
            "seed": st.integers(0, 3),
            "target_rank": st.sampled_from((None, None, SWAP_RANK // 2, self.swap_rank)),
        }
        return drawn.get(name, st.booleans())


def present(names: Sequence[str], plan: Plan) -> tuple[str, ...]:
    """Return the names that are there, as many as the method can have active."""
    there = tuple(name for name in names if name in plan.settings) or ([*plan.settings][-1],)
    return there if "several_active" in plan.abilities else there[:1]


@dataclass(kw_only=True)
class Lines:
    """What the lines of a script depend on."""

    on: AdaptedNetwork
    method: Method
    autocast: str
    has_optimizer: bool = False

    @property
    def seed(self) -> int:
        """Return the seed of the network."""
        return self.on.network.seed

    def configuration(self, name: str) -> str:
        """Return the configuration of an adapter as code."""
        settings = {**self.method.fixed, **self.on.settings_of(name)}
        values = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"{self.method.config}({values})"


def named(adapter: str) -> str:
    """Return the argument `adapter_name` with the comma before it; '' for the default."""
    return "" if adapter == "default" else f", adapter_name={adapter!r}"


def folder_of(adapter: str) -> str:
    """Return the code of the folder in which `save_pretrained` puts an adapter."""
    return "folder" if adapter == "default" else f"folder + {'/' + adapter!r}"
