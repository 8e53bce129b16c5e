"""Save an adapter of every method in each minor release of peft, and load it in all the others.

    python tools/compat/study.py

Prints the tables of docs/upgrading.md, without the reasons, which a person has to find. Works in
runs/compat-study, where it goes on after an interrupt; takes a quarter of an hour, a third of it
for downloads.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from peft_regress.overlay.overlay import opened_overlay
from peft_regress.upgrades.compat.releases import BaseMade, BaseModel, Loaded, try_adapters
from peft_regress.upgrades.compat.verdicts import WORDS, Judgement, Reference, judge
from peft_regress.workers.pool import LocalPool
from peft_regress.workers.process import variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE: Final = Path(__file__).resolve().parent
WORK: Final = HERE.parents[1] / "runs" / "compat-study"
RELEASES: Final = (
    *("0.10.0", "0.11.1", "0.12.0", "0.13.2", "0.14.0", "0.15.2"),
    *("0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.0", "0.21.2"),
)
"""The last patch of each minor release: 12 of the 22 releases from 0.10 to 0.21."""

_BASE: Final = BaseModel(name="adapters:make_base", inputs="adapters:inputs", folder=str(HERE))


class SeenIn(msgspec.Struct, frozen=True, kw_only=True):
    """What one release made of the adapters of all releases."""

    packages: dict[str, str]
    base: BaseMade
    adapters: dict[str, tuple[Loaded, Loaded | None]]
    """By `RELEASE/VARIANT`: as it is, and without the fields that the release does not know."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter in one release that has its method."""

    variant: str
    saved: int
    """The place of the release in `RELEASES`, as in `loaded`."""
    loaded: int
    found: Judgement
    is_edited: bool
    """Whether it loads only without the fields that the release does not know."""

    @property
    def is_of_merging(self) -> bool:
        """Whether only the merged output is another one."""
        return self.found.verdict == "other_output" and self.found.merged_difference is not None

    @property
    def words(self) -> str:
        """The verdict in words."""
        return WORDS[self.found.verdict] + (" when merged" if self.is_of_merging else "")

    @property
    def difference(self) -> float:
        """By how much the output differs; 0 without an output."""
        found = self.found
        return (found.merged_difference if self.is_of_merging else found.difference) or 0.0


def make_adapters() -> Iterator[tuple[str, Path]]:
    """Let each release save an adapter of each variant, unless it has; yield names and folders."""
    for release in RELEASES:
        folder = WORK / release
        if not (folder / "made.json").exists():
            with opened_overlay([f"peft=={release}"]) as overlay:
                subprocess.run(
                    [str(overlay.python), str(HERE / "adapters.py"), str(folder)],
                    check=True,
                    env=variables(),
                    capture_output=True,
                )
        made = json.loads((folder / "made.json").read_text())
        yield from (
            (f"{release}/{variant}", folder / place)
            for variant, (place, problem) in made.items()
            if not problem
        )


def loaded_in(release: str, adapters: dict[str, Path]) -> SeenIn:
    """Let a release load the adapters of all, unless it has."""
    file = WORK / f"seen-{release}.json"
    if not file.exists():
        folders = list(adapters.values())
        with opened_overlay([f"peft=={release}"]) as overlay, LocalPool(1, 600) as pool:
            futures = try_adapters(pool, overlay.python, _BASE, folders)
            found = [future.result() for future in futures]
        seen = SeenIn(
            packages=dict(found[0].packages),
            base=found[0].base,
            adapters={
                name: (one.adapter, one.without) for name, one in zip(adapters, found, strict=True)
            },
        )
        file.write_bytes(msgspec.json.encode(seen))
    return msgspec.json.decode(file.read_bytes(), type=SeenIn)


def judged(adapters: Iterable[str], seen: list[SeenIn]) -> Iterator[Cell]:
    """Judge each adapter in each release by the release that saved it."""
    for name in adapters:
        saved, _, variant = name.partition("/")
        here = seen[RELEASES.index(saved)]
        reference = Reference(
            release=saved,
            packages=here.packages,
            base=here.base,
            adapter=here.adapters[name][0],
        )
        for place, there in enumerate(seen):
            loaded, without = there.adapters[name]
            found = judge(there.base, loaded if without is None else without, reference)
            if not any("has no method" in detail for detail in found.details):
                yield Cell(
                    variant=variant,
                    saved=RELEASES.index(saved),
                    loaded=place,
                    found=found,
                    is_edited=without is not None and found.verdict != "refused",
                )


# --- The tables -----------------------------------------------------------------------------------


def ranges(places: Iterable[int]) -> str:
    """Return releases as ranges of minor releases: `0.10-0.13, 0.16`."""
    numbered = enumerate(sorted(set(places)))
    runs = [list(run) for _, run in groupby(numbered, key=lambda pair: pair[1] - pair[0])]
    ends = [(RELEASES[run[0][1]], RELEASES[run[-1][1]]) for run in runs]
    return ", ".join(
        "-".join(dict.fromkeys(release.rpartition(".")[0] for release in pair)) for pair in ends
    )


def print_counts(cells: list[Cell], adapters: int) -> None:
    """Print how many adapters were tried, and what became of them."""
    print(f"\n| adapters saved | {adapters:,} |\n| loaded | {len(cells):,} |")
    for verdict, count in Counter(cell.found.verdict for cell in cells).most_common():
        print(f"| {WORDS[verdict]} | {count:,} |")
    print(f"| of all, only without unknown fields | {sum(cell.is_edited for cell in cells):,} |")
    for verdict, farthest in (("same", max), ("other_output", min)):
        sizes = [cell.difference for cell in cells if cell.found.verdict == verdict]
        shown = f"{farthest(sizes):.1e}" if sizes else "none"
        print(f"| {farthest.__name__} difference, {verdict} | {shown} |")


def print_breaks(cells: list[Cell]) -> None:
    """Print what differs, a row for each variant, verdict and direction."""
    groups: defaultdict[tuple[bool, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.found.verdict != "same":
            groups[cell.saved > cell.loaded, cell.variant, cell.words].append(cell)
    print("\n| adapter | saved by | loaded in | verdict | difference |\n|" + " --- |" * 5)
    for (_, variant, words), members in sorted(groups.items()):
        by_loaded: defaultdict[str, list[Cell]] = defaultdict(list)
        for _, of_one in groupby(members, key=lambda cell: cell.saved):
            row = list(of_one)
            by_loaded[ranges(cell.loaded for cell in row)] += row
        for loaded, some in by_loaded.items():
            sizes = [cell.difference for cell in some]
            saved_by = ranges(cell.saved for cell in some)
            difference = f"{min(sizes):.2g} to {max(sizes):.2g}"
            print(f"| {variant} | {saved_by} | {loaded} | {words} | {difference} |")


def print_unbroken(cells: list[Cell]) -> None:
    """Print the variants that every release which has them loads alike, in both directions."""
    broken = {cell.variant for cell in cells if cell.found.verdict != "same"}
    saved: defaultdict[str, set[int]] = defaultdict(set)
    for cell in cells:
        saved[cell.variant].add(cell.saved)
    by_range: defaultdict[str, list[str]] = defaultdict(list)
    for variant, places in saved.items():
        if variant not in broken:
            by_range[ranges(places)].append(variant)
    print("\n| releases | adapters |\n| --- | --- |")
    for releases, variants in by_range.items():
        print(f"| {releases} | {'; '.join(variants)} |")


def main() -> None:
    """Make, load and judge all adapters, and print the tables."""
    WORK.mkdir(parents=True, exist_ok=True)
    adapters = dict(make_adapters())
    seen = [loaded_in(release, adapters) for release in RELEASES]
    cells = list(judged(adapters, seen))
    print_counts(cells, len(adapters))
    print_breaks(cells)
    print_unbroken(cells)


if __name__ == "__main__":
    main()
