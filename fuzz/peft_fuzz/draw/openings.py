"""Acts that a defect often needs one after another, which chance seldom draws."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from math import lcm
from typing import Final

from peft_fuzz import example as e
from peft_fuzz.life.plan import Plan
from peft_fuzz.methods import Method
from peft_fuzz.methods.method import Ability

UNKNOWN: Final = "unknown"
COPIED: Final = "copied"
MIXTURE: Final = "mixture"
SWAP_RANK: Final = 16
_OFTEN: Final = 3

Opening = tuple[e.Act, ...]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the lives of an example depend on.

    Attributes:
        names: Of the adapters.
        batch: How many items the input has.
        abilities: What the method's documentation lets one do.
        with_copies: Whether an adapter has copies of layers (`modules_to_save`).
        swap_rank: A rank that the groups of all layers divide, for swaps of another rank.

    """

    names: tuple[str, ...]
    batch: int
    abilities: frozenset[Ability]
    with_copies: bool
    swap_rank: int

    @classmethod
    def of(cls, example: e.Example, method: Method) -> Setting:
        """Return the setting of an example without acts."""
        plan = Plan.start(example, method.abilities)
        groups = lcm(*(layer.groups for layer in example.network.layers))
        ranks = [int(adapter.settings.get("r", 8)) for adapter in example.adapters]
        return cls(
            names=tuple(dict.fromkeys(adapter.name for adapter in example.adapters)),
            batch=example.network.batch,
            abilities=method.abilities,
            with_copies=bool(plan.copies(plan.active[0]))
            or any("modules_to_save" in adapter.settings for adapter in example.adapters),
            swap_rank=groups * -(-max(SWAP_RANK, *ranks) // groups),
        )


def openings(setting: Setting) -> list[Opening]:
    """Return the openings of a life; the plainest come first.

    Those with copies come only, and more often, where an adapter has some; those of an ability
    only where the method has it.
    """
    found = [*_alone(setting.names[0], setting.batch), *_swaps(setting)]
    if setting.with_copies:
        found += _OFTEN * _copies_alone(setting)
    if len(setting.names) > 1:
        found += _of_two(setting)
        if setting.with_copies:
            found += _OFTEN * _copies_of_two(setting)
        if "weighted" in setting.abilities:
            found += _combined(setting.names)
    return found


def can_swap() -> bool:
    """Return whether the installed peft can swap adapters: since 0.15."""
    return find_spec("peft.utils.hotswap") is not None


def _alone(first: str, batch: int) -> list[Opening]:
    fill, disable = e.Fill(), e.Disable()
    return [
        (e.Train(),),
        (fill, e.Merge(safe=True, broken=True)),
        (fill, e.Merge(), e.Delete(adapter=first)),
        (disable, e.Train()),
        (fill, e.Scale(adapter=first, scale=1.0)),
        (e.Train(), e.SaveLoad(), e.Train()),
        (e.Train(), e.Merge(), e.Unmerge(), e.Train(keep_optimizer=True)),
        (e.Train(), e.Merge(), e.Unmerge(), e.Fill(), e.Train(keep_optimizer=True)),
        (e.Mode(training=True), fill, e.Merge(), e.Unmerge()),
        (fill, e.LoadBeside(adapter=first, name=COPIED)),
        (fill, e.Mixed(adapters=(UNKNOWN,) * batch)),
        (fill, e.Add(adapter=first)),
    ]


def _swaps(setting: Setting) -> list[Opening]:
    if "hot_swap" not in setting.abilities or not can_swap():
        return []
    first, rank = setting.names[0], setting.swap_rank
    return [
        (e.Fill(), e.HotSwap(adapter=first, target_rank=rank)),
        (e.Fill(), e.SaveLoad(), e.HotSwap(adapter=first, target_rank=rank)),
        (e.Fill(), e.Merge(), e.HotSwap(adapter=first)),
    ]


def _both_filled(setting: Setting) -> Opening:
    """Return the acts after which both adapters are there and filled, and the second is active."""
    last = setting.names[-1]
    return (e.Fill(), e.Add(adapter=last), e.Activate(adapters=(last,)), e.Fill())


def _of_two(setting: Setting) -> list[Opening]:
    first, last = setting.names[0], setting.names[-1]
    second, both = e.Add(adapter=last), e.Activate(adapters=(first, last))
    there, turns = _both_filled(setting), (first, last) * setting.batch
    return [
        (second,),
        there,
        (second, both, e.Fill()),
        (*there, both, e.Merge(adapters=(first,)), e.Merge(adapters=(last,))),
        (*there, e.Activate(adapters=(first,))),
        (*there, e.Mixed(adapters=turns[: setting.batch])),
        (*there, e.Delete(adapter=last)),
    ]


def _copies_alone(setting: Setting) -> list[Opening]:
    first, fill = setting.names[0], e.Fill()
    found: list[Opening] = [
        (fill, e.SaveLoad()),
        (e.Train(), e.Disable(), e.Enable(), e.Train()),
        (fill, e.Unload()),
    ]
    if "mixed" in setting.abilities:
        found.append((fill, e.Mixed(adapters=(first, "__base__") * (setting.batch // 2))))
    return found


def _copies_of_two(setting: Setting) -> list[Opening]:
    first, last = setting.names[0], setting.names[-1]
    there, back = _both_filled(setting), e.Activate(adapters=(first,))
    found: list[Opening] = [
        (*there, back, e.Activate(adapters=(last,))),
        (*there, e.Activate(adapters=(first,), through_tuner=True)),
        (*there, e.Delete(adapter=first)),
        (*there, e.Delete(adapter=last)),
        (*there, e.Unload()),
        (*there, back, e.Unload()),
        (*there, e.SaveLoad()),
    ]
    if "several_active" in setting.abilities:
        found.append((*there, e.Activate(adapters=(first, last))))
    return found


def _combined(names: tuple[str, ...]) -> list[Opening]:
    first, last = names[0], names[-1]
    there = (e.Fill(), e.Add(adapter=last), e.Activate(adapters=(last,)), e.Fill())
    kinds: list[tuple[str, tuple[float, float], float | None]] = [
        ("cat", (1.0, -0.5), None),
        ("cat", (0.5, 1.0), None),
        ("linear", (-1.0, 0.5), None),
        ("dare_linear", (1.0, 0.5), 0.5),
        ("ties", (1.0, -0.5), 0.5),
    ]
    return [
        (
            *there,
            e.Weighted(
                adapters=(first, last),
                weights=weights,
                combination=kind,
                name=MIXTURE,
                density=density,
            ),
            e.Activate(adapters=(MIXTURE,)),
        )
        for kind, weights, density in kinds
    ]
