"""Judge what both sides write and read: tensors of checkpoints, fields of configurations. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peft_regress.environments.checklist.messages import Examined
from peft_regress.environments.checklist.rows import Detail, Row, name_of
from peft_regress.text import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from peft_regress.environments.checklist.judge_outputs import Part
    from peft_regress.environments.checklist.messages import Inspected
    from peft_regress.environments.checklist.rows import Verdict
    from peft_regress.environments.checklist.running import Result


def checkpoint_row(results: Sequence[Result], parts: Sequence[Part]) -> Row:
    """Compare what each side writes: a changed layout is right where the outputs stay the same."""
    good = {
        id(part.situation)
        for part in parts
        if part.name == "unmerged" and part.verdict in {"ok", "not measured"}
    }
    counts = [0, 0]
    changed: list[Detail] = []
    broken: list[Detail] = []
    for result in results:
        base, branch = result.base, result.branch
        if not isinstance(base, Examined) or not isinstance(branch, Examined):
            continue
        if not base.keys or not branch.keys:
            continue
        counts[0] += len(base.keys)
        counts[1] += len(branch.keys)
        if base.keys != branch.keys:
            detail = Detail(name_of(result.situation), _moved(base.keys, branch.keys))
            (changed if id(result.situation) in good else broken).append(detail)
    verdict: Verdict = "out of bounds" if broken else "ok" if counts[0] else "not measured"
    moved = len(changed) + len(broken)
    difference = f"differ in {count_of(moved, 'checkpoint')}" if moved else "none"
    if changed and not broken:
        difference += ", each converted while loading"
    return Row(
        about="checkpoint",
        what="names, types and shapes",
        base=count_of(counts[0], "tensor"),
        branch=count_of(counts[1], "tensor"),
        difference=difference,
        bound="equal, or converted",
        verdict=verdict,
        details=(*broken, *changed),
    )


def _moved(base: Mapping[str, str], branch: Mapping[str, str]) -> str:
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
    yield Row(
        about="configuration",
        what="removed fields",
        difference=", ".join(gone) or "none",
        bound="none",
        verdict="out of bounds" if gone else "ok",
    )
    yield Row(
        about="configuration",
        what="changed defaults",
        difference=", ".join(f"{name}: {base[name]} -> {branch[name]}" for name in moved) or "none",
        bound="none",
        verdict="out of bounds" if moved else "ok",
    )
