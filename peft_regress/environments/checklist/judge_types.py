"""Judge the number types of the adapter on a base of half precision. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress.environments.checklist.rows import Detail, Row, grouped
from peft_regress.text import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.environments.checklist.messages import Examined
    from peft_regress.environments.checklist.running import Result


def type_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield for each half, with and without `autocast_adapter_dtype`, the types of the adapter.

    With it they are float32, else that of the base; where the base of the comparison has another
    one, such as that of LN tuning, it is right as well.
    """
    typed = [
        result
        for result in results
        if result.situation.dtype != "float32" and all(side.types for side in result.sides)
    ]
    for numbers, members in grouped(typed, lambda result: result.situation.numbers).items():
        situation = members[0].situation
        wanted = "float32" if situation.autocast else situation.dtype
        wrong = [detail for result in members for detail in _wrong(result, wanted)]
        base, branch = (_types(side) for side in zip(*(one.sides for one in members), strict=True))
        yield Row(
            about="types",
            what=numbers,
            configurations=len(members),
            base=base,
            branch=branch,
            difference=f"in {count_of(len(wrong), 'place')}" if wrong else "none",
            bound=f"{wanted}, or as the base",
            verdict="out of bounds" if wrong else "ok",
            details=tuple(wrong),
        )


def _types(sides: Sequence[Examined]) -> str:
    stages = [types for side in sides for types in side.types.values()]
    return ", ".join(sorted({found for types in stages for found in types.values()}))


def _wrong(result: Result, wanted: str) -> Iterator[Detail]:
    base, branch = result.sides
    for stage, types in branch.types.items():
        usual = base.types.get(stage, {})
        names = [name for name, found in types.items() if found not in {wanted, usual.get(name)}]
        if names:
            said = (
                f"{stage}: {count_of(len(names), 'parameter')} of the adapter in another type, "
                f"such as {names[0]} in {types[names[0]]}"
            )
            yield Detail(str(result.situation), said)
