"""Judge the number types of the adapter on a base of half precision. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from peft_regress.environments.checklist.messages import Examined
from peft_regress.environments.checklist.rows import Detail, Row, name_of
from peft_regress.text import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from peft_regress.environments.checklist.running import Result


def type_rows(results: Sequence[Result]) -> Iterator[Row]:
    """Yield for each half, with and without `autocast_adapter_dtype`, the types of the adapter.

    With it they are float32, else that of the base; where the base of the comparison has another
    one, such as that of LN tuning, it is right as well.
    """
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.situation.dtype != "float32" and _is_typed(result):
            groups[result.situation.numbers].append(result)
    for numbers, members in groups.items():
        wrong = [detail for result in members for detail in _wrong(result)]
        yield Row(
            about="types",
            what=numbers,
            configurations=len(members),
            base=", ".join(_types([result.base for result in members])),
            branch=", ".join(_types([result.branch for result in members])),
            difference=f"in {count_of(len(wrong), 'place')}" if wrong else "none",
            bound=f"{_wanted(members[0])}, or as the base",
            verdict="out of bounds" if wrong else "ok",
            details=tuple(wrong),
        )


def _is_typed(result: Result) -> bool:
    return all(isinstance(side, Examined) and side.types for side in (result.base, result.branch))


def _types(sides: Sequence[Examined | str | None]) -> list[str]:
    return sorted(
        {
            found
            for side in sides
            if isinstance(side, Examined)
            for types in side.types.values()
            for found in types.values()
        }
    )


def _wanted(result: Result) -> str:
    return "float32" if result.situation.autocast else result.situation.dtype


def _wrong(result: Result) -> Iterator[Detail]:
    assert isinstance(result.base, Examined)  # noqa: S101  (the caller chose it)
    assert isinstance(result.branch, Examined)  # noqa: S101
    for stage, types in result.branch.types.items():
        usual = result.base.types.get(stage, {})
        names = [
            name for name, found in types.items() if found not in {_wanted(result), usual.get(name)}
        ]
        if names:
            said = (
                f"{stage}: {count_of(len(names), 'parameter')} of the adapter in another type, "
                f"such as {names[0]} in {types[names[0]]}"
            )
            yield Detail(name_of(result.situation), said)
