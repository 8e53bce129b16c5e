"""Judge what an adapter is: its number types, its checkpoint, its configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from peft_fuzz.checklist.messages import Examined, Inspected
from peft_fuzz.checklist.rows import Detail, Row, Verdict, grouped, worst_of
from peft_regress.text import count_of

if TYPE_CHECKING:
    from peft_fuzz.checklist.judge_outputs import Part
    from peft_fuzz.checklist.running import Result


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


def checkpoint_row(results: Sequence[Result], parts: Sequence[Part]) -> Row:
    """Compare what each side writes: a changed layout is right where the outputs stay the same.

    These are the outputs of the branch from the file of the base, and from its own.
    """
    loaded = grouped(parts, lambda part: (id(part.situation), part.name))
    counts = [0, 0]
    changed: dict[Verdict, list[Detail]] = {"out of bounds": [], "not measured": [], "ok": []}
    for result in results:
        base, branch = result.sides
        if not base.keys or not branch.keys:
            continue
        counts[0] += len(base.keys)
        counts[1] += len(branch.keys)
        moved = _moved(base.keys, branch.keys, branch.altered)
        if moved:
            at = id(result.situation)
            outputs = (*loaded[at, "unmerged"], *loaded[at, "reloaded"])
            verdict = worst_of({part.verdict for part in outputs})
            if _of_other_types(base.keys, branch.keys):
                verdict = "out of bounds"  # A narrower type loses digits, a wider one costs bytes.
            changed[verdict].append(Detail(str(result.situation), moved))
    details = tuple(detail for found in changed.values() for detail in found)
    difference = f"differ in {count_of(len(details), 'checkpoint')}" if details else "none"
    if details and len(details) == len(changed["ok"]):
        difference += ", each converted while loading"
    seen = {verdict for verdict, found in changed.items() if found}
    return Row(
        about="checkpoint",
        what="names, types, shapes and numbers",
        base=count_of(counts[0], "tensor"),
        branch=count_of(counts[1], "tensor"),
        difference=difference,
        bound="equal, or converted in one type",
        verdict=worst_of(seen) if counts[0] else "not measured",
        details=details,
    )


def _of_other_types(base: Mapping[str, str], branch: Mapping[str, str]) -> bool:
    """Return whether a tensor that both sides write has another number type."""
    return any(
        base[name].partition(" ")[0] != branch[name].partition(" ")[0]
        for name in base.keys() & branch.keys()
    )


def _moved(base: Mapping[str, str], branch: Mapping[str, str], altered: Sequence[str]) -> str:
    absent, new = base.keys() - branch.keys(), branch.keys() - base.keys()
    other = [name for name in base.keys() & branch.keys() if base[name] != branch[name]]
    said = [
        f"{len(names)} {word}, such as {min(names)}"
        for names, word in ((absent, "absent"), (new, "new"))
        if names
    ]
    if other:
        first = min(other)
        said.append(
            f"{len(other)} of another type or shape: {first} {base[first]} -> {branch[first]}"
        )
    if altered:
        said.append(f"{len(altered)} with other numbers, such as {altered[0]}")
    return "; ".join(said)


_OF_FILES: Final = frozenset({"peft_version", "auto_mapping"})
"""Fields that say who wrote a file, and change nothing."""


def config_rows(inspected: tuple[Inspected, Inspected], outputs: Sequence[Row]) -> Iterator[Row]:
    """Yield what became of the fields of the configuration: new, removed, of another default."""
    base, branch = (
        {name: value for name, value in (side.fields or {}).items() if name not in _OF_FILES}
        for side in inspected
    )
    new = {name: branch[name] for name in branch if name not in base}
    gone = [name for name in base if name not in branch]
    moved = [name for name in base if name in branch and base[name] != branch[name]]
    is_same = all(row.verdict == "ok" for row in outputs) and bool(outputs)
    # Old checkpoints lack a new field: they were loaded with its default.
    yield Row(
        about="configuration",
        what="new fields",
        base=count_of(len(base), "field"),
        branch=count_of(len(branch), "field"),
        difference=", ".join(f"{name}={value}" for name, value in new.items()) or "none",
        bound="same function",
        verdict="ok" if not new or is_same else "shown",
    )
    changes = [f"{name}: {base[name]} -> {branch[name]}" for name in moved]
    for what, found in (("removed fields", gone), ("changed defaults", changes)):
        yield Row(
            about="configuration",
            what=what,
            difference=", ".join(found) or "none",
            bound="none",
            verdict="out of bounds" if found else "ok",
        )
