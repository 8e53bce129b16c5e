"""The tables of docs/compat.md: which adapters break between which releases of peft, and why."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec
from page_tables import table

from peft_regress.upgrades.compat.verdicts import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_HEADER: Final = ("adapter", "saved by, loaded in", "verdict", "why")
_NO_METHOD: Final = "has no method"
_PULL: Final = "https://github.com/huggingface/peft/pull/"


class Cell(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One adapter in one release that does not load it as the release that saved it does."""

    variant: str
    saved: str
    loaded: str
    verdict: str
    needs_edit: bool
    """Whether it loads only without the fields that the release does not know."""
    difference: float | None
    merged_difference: float | None
    details: list[str]

    @property
    def is_newer(self) -> bool:
        """Whether an old file is loaded in a newer release."""
        return order(self.saved) < order(self.loaded)

    @property
    def is_of_merging(self) -> bool:
        """Whether only the merged output is another one."""
        return self.verdict == "other_output" and self.merged_difference is not None


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the study found, without the cells in which nothing differs."""

    releases: list[str]
    packages: dict[str, str]
    made: dict[str, list[str]]
    """The variants by the release that saved them."""
    refused_by_itself: dict[str, str]
    pairs: int
    """Adapters times releases that have the method."""
    same: int
    largest_same: float
    """The largest difference of an output that counts as the same."""
    smallest_other: float
    edited: int
    """Adapters times releases that load only without unknown fields."""
    cells: list[Cell]

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a stored study."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


def order(release: str) -> tuple[int, ...]:
    """Return what releases are ordered by."""
    return tuple(map(int, release.split(".")))


def summary_of(
    cells: Iterable[Cell],
    *,
    releases: list[str],
    packages: dict[str, str],
    made: dict[str, list[str]],
    refused_by_itself: dict[str, str],
) -> Study:
    """Count what is the same, and keep the rest."""
    known = [one for one in cells if not any(_NO_METHOD in detail for detail in one.details)]
    same = [one for one in known if one.verdict == "same"]
    numbers = [one.difference for one in same if one.difference is not None]
    others = [one.difference for one in known if one.verdict == "other_output" and one.difference]
    others = [one for one in others if one > max(numbers)]
    return Study(
        releases=releases,
        packages=packages,
        made=made,
        refused_by_itself=refused_by_itself,
        pairs=len(known),
        same=len(same),
        largest_same=max(numbers),
        smallest_other=min(others),
        edited=sum(one.needs_edit for one in known),
        cells=[one for one in known if one.verdict != "same"],
    )


def stored(study: Study) -> bytes:
    """Return a study as JSON, with a line for each cell."""
    whole = msgspec.to_builtins(study)
    cells = ",\n".join(json.dumps(one) for one in whole.pop("cells"))
    head = json.dumps(whole, indent=1).rpartition("\n}")[0]
    return f'{head},\n "cells": [\n{cells}\n]\n}}\n'.encode()


# --- Why ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why adapters differ between the releases before one and those from it on."""

    variants: str
    """A glob."""
    since: str
    """The first release of the new behaviour."""
    text: str
    pull: int
    """The number of the pull request at huggingface/peft that brought it."""
    only: str = ""
    """`newer` for old files in newer releases alone, `older` for new files in older ones alone."""
    before: str = ""
    """The file, or the release that loads it, is older than this one too."""
    merging: bool = False
    """Whether it is about the merged output alone."""
    loading: bool = False
    """Whether the output is the same."""

    def explains(self, cell: Cell) -> bool:
        """Return whether this is why a cell differs."""
        first, last = sorted((cell.saved, cell.loaded), key=order)
        return (
            fnmatchcase(cell.variant, self.variants)
            and order(first) < order(self.since) <= order(last)
            and (not self.before or order(first) < order(self.before))
            and self.only in {"", "newer" if cell.is_newer else "older"}
            and self.merging == cell.is_of_merging
            and self.loading == (cell.verdict == "loads_otherwise")
        )


_LACKING: Final = "a feature that older releases do not have"
_DROPPED: Final = f"{_LACKING}; they drop its tensors without an error"
CAUSES: Final = (
    Cause(
        variants="lokr*",
        since="0.14.0",
        text="`alpha / r` is applied; before it was not. Loaded in the other releases, the "
        "adapter's part is `alpha / r` times as large or as small, without a word",
        pull=2180,
    ),
    Cause(
        variants="oft*",
        since="0.14.0",
        text="OFT was written anew, with other tensors; old files are refused in clear words",
        pull=1996,
        only="newer",
    ),
    Cause(
        variants="oft*",
        since="0.14.0",
        text="OFT was written anew, with other tensors; older releases read the new files all the "
        "same, unless a size differs",
        pull=1996,
        only="older",
    ),
    Cause(
        variants="oft*",
        since="0.21.0",
        before="0.16.0",
        text="the check that refuses these files finds them no longer: they load, with a warning "
        "about missing keys, and an adapter of linear layers does nothing",
        pull=3490,
        only="newer",
    ),
    Cause(
        variants="oft*",
        since="0.16.0",
        text="OFT rotates the inputs in place of the outputs, with other tensors; old files are "
        "refused in clear words",
        pull=2575,
        only="newer",
    ),
    Cause(
        variants="oft*",
        since="0.16.0",
        text="OFT has other tensors; older releases load the new files, use none of them, and the "
        "adapter does nothing",
        pull=2575,
        only="older",
    ),
    Cause(
        variants="oft*",
        since="0.18.0",
        text="the series that approximates the rotation ends at another term; upstream advises to "
        "train again",
        pull=2805,
    ),
    Cause(
        variants="boft, convolution",
        since="0.14.0",
        text="the weight of a convolution is laid out in another way before it is rotated; nothing "
        "refuses the other files",
        pull=1996,
    ),
    Cause(
        variants="boft*",
        since="0.13.0",
        text="`boft_P` is no longer in the file; it is made again, and is equal",
        pull=2050,
        loading=True,
    ),
    Cause(
        variants="adamss",
        since="0.20.0",
        text="the decomposition that splits the weight is drawn with another seed, so that the "
        "tensors meet other subspaces",
        pull=3310,
    ),
    Cause(
        variants="lora, lora_bias",
        since="0.16.0",
        text="merging scales the bias by `alpha / r`, as the forward pass does",
        pull=2489,
        merging=True,
    ),
    Cause(
        variants="dora, embedding",
        since="0.16.0",
        text="merging applies DoRA's magnitude on embeddings; before it did not",
        pull=2443,
        merging=True,
    ),
    Cause(variants="lora, lora_bias", since="0.14.0", text=_DROPPED, pull=2237),
    Cause(variants="lora, trainable_token_indices", since="0.15.0", text=_DROPPED, pull=2376),
    Cause(variants="lora, attention", since="0.15.0", text=_LACKING, pull=1324),
    Cause(variants="lora, target_parameters", since="0.17.0", text=_LACKING, pull=2638),
    Cause(variants="lora, init pissa", since="0.11.0", text=_LACKING, pull=1626),
    Cause(variants="lora, init olora", since="0.12.0", text=_LACKING, pull=1828),
    Cause(variants="dora, embedding", since="0.13.0", text=_LACKING, pull=2006),
    *(
        Cause(
            variants=variant,
            since="0.18.0",
            text="loaded for inference, older releases leave the copies trainable",
            pull=2765,
            loading=True,
        )
        for variant in ("lora, modules_to_save", "lora, trainable_token_indices")
    ),
    Cause(
        variants="lora, bias",
        since="0.21.0",
        text="older releases do not save the trained biases, so old files lack them",
        pull=3490,
        loading=True,
        only="newer",
    ),
    *(
        Cause(
            variants=variant,
            since="0.21.0",
            text="older releases do not read the saved projections, and draw them again by the "
            "stored seed; the same torch draws the same",
            pull=3490,
            loading=True,
            only="older",
        )
        for variant in ("vera", "pvera")
    ),
)


def cause_of(cell: Cell) -> str:
    """Return why a cell differs; 'not known' if nobody has found out."""
    found = next((one for one in CAUSES if one.explains(cell)), None)
    if found is None:
        return "not known"
    return f"{found.text} ([#{found.pull}]({_PULL}{found.pull}))"


# --- Tables ---------------------------------------------------------------------------------------


def _minor(release: str) -> str:
    return ".".join(release.split(".")[:2])


def _ranges(chosen: Iterable[str], releases: list[str]) -> str:
    """Return releases as ranges of minor releases: `0.10-0.13, 0.16`."""
    places = sorted(releases.index(one) for one in chosen)
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(
        _minor(releases[run[0]])
        if len(run) == 1
        else f"{_minor(releases[run[0]])}-{_minor(releases[run[-1]])}"
        for run in runs
    )


def _blocks(pairs: Iterable[tuple[str, str]], releases: list[str]) -> list[tuple[str, str]]:
    """Return (saved by, loaded in) of pairs, where equal ranges share a block."""
    loaded: dict[str, set[str]] = defaultdict(set)
    for saved, release in pairs:
        loaded[saved].add(release)
    by_loaded: dict[frozenset[str], list[str]] = defaultdict(list)
    for saved, found in loaded.items():
        by_loaded[frozenset(found)].append(saved)
    return [
        (_ranges(saved, releases), _ranges(found, releases)) for found, saved in by_loaded.items()
    ]


def _rows(study: Study, cells: Iterable[Cell]) -> list[list[str]]:
    """Return a row for each group of variants that differ in the same way and for one cause."""
    groups: dict[tuple[str, str, str, bool], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.variant, cause_of(cell), cell.verdict, cell.is_newer].append(cell)
    merged: dict[tuple[str, ...], tuple[list[str], list[Cell]]] = {}
    for (variant, cause, verdict, is_newer), members in groups.items():
        blocks = _blocks(((one.saved, one.loaded) for one in members), study.releases)
        where = "; ".join(f"{saved} in {loaded}" for saved, loaded in blocks)
        direction = "old in new" if is_newer else "new in old"
        key = (direction, verdict, cause, where)
        variants, known = merged.setdefault(key, ([], []))
        variants.append(variant)
        known += members
    return [
        ["; ".join(variants), where, _verdict(verdict, members), cause]
        for (_, verdict, cause, where), (variants, members) in sorted(
            merged.items(), key=lambda item: (item[0][0] == "new in old", item[1][0][0])
        )
    ]


def _verdict(verdict: str, members: Iterable[Cell]) -> str:
    differences = [
        one.merged_difference if one.is_of_merging else one.difference for one in members
    ]
    known = [one for one in differences if one is not None]
    words = WORDS[verdict]  # type: ignore[index]
    if all(one.is_of_merging for one in members):
        words = f"{words} when merged"
    if verdict != "other_output" or not known:
        return words
    low, high = f"{min(known):.2g}", f"{max(known):.2g}"
    return f"{words}, by {low}" if low == high else f"{words}, by {low} to {high}"


def breaks(study: Study) -> str:
    """Return what computes something else, or is refused, in the other releases."""
    cells = [one for one in study.cells if one.verdict != "loads_otherwise"]
    return table(_HEADER, _rows(study, cells), names=4)


def otherwise(study: Study) -> str:
    """Return what loads in another way and computes the same."""
    cells = [one for one in study.cells if one.verdict == "loads_otherwise"]
    return table(_HEADER, _rows(study, cells), names=4)


def counts(study: Study) -> str:
    """Return how many adapters were tried, and what became of them."""
    adapters = sum(map(len, study.made.values()))
    found: dict[str, int] = defaultdict(int)
    for cell in study.cells:
        found[cell.verdict] += 1
    rows = [
        ["adapters saved", f"{adapters:,}"],
        ["of variants", str(len({one for names in study.made.values() for one in names}))],
        ["by releases", str(len(study.releases))],
        ["loaded in releases that have the method", f"{study.pairs:,}"],
        ["the same", f"{study.same:,}"],
        *([WORDS[verdict], f"{count:,}"] for verdict, count in sorted(found.items())),  # type: ignore[index]
        ["of all, only without fields that 0.10 to 0.13 do not know", f"{study.edited:,}"],
        ["largest difference of the same", f"{study.largest_same:.1e}"],
        ["smallest difference of another output", f"{study.smallest_other:.1e}"],
    ]
    return table(["what", "count"], rows)


def unbroken(study: Study) -> str:
    """Return the variants that every release which has them loads alike, in both directions."""
    broken = {one.variant for one in study.cells}
    names = dict.fromkeys(name for found in study.made.values() for name in found)
    rows = []
    for name in names:
        if name not in broken:
            saved = [release for release in study.releases if name in study.made[release]]
            rows.append([name, _ranges(saved, study.releases)])
    by_range: dict[str, list[str]] = defaultdict(list)
    for name, found in rows:
        by_range[found].append(name)
    return table(
        ["releases", "adapters"],
        [[found, "; ".join(names)] for found, names in by_range.items()],
        names=2,
    )


TABLES: Final[dict[str, Callable[[Study], str]]] = {
    "counts": counts,
    "breaks": breaks,
    "otherwise": otherwise,
    "unbroken": unbroken,
}
"""By name: what docs/compat.md has between `<!-- compat:NAME -->` and `<!-- /compat:NAME -->`."""
