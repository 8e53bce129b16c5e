"""Save an adapter of every method in each minor release of peft, and load it in all the others.

    python tools/compat/study.py

Prints what differs; docs/upgrading.md has it in groups, with the reasons, which a person has to
find. Works in runs/compat-study, where it goes on after an interrupt; takes a quarter of an hour.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.overlay.overlay import opened_overlay
from peft_regress.processes import variables
from peft_regress.project.settings import Pip
from peft_regress.upgrades.compat.judging import WORDS, judge
from peft_regress.upgrades.compat.releases import BaseMade, BaseModel, Loaded, Seen, try_adapters
from peft_regress.workers.pool import LocalPool

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
    adapters: dict[str, Loaded]
    """By `RELEASE/VARIANT`."""


def make_adapters() -> Iterator[tuple[str, Path]]:
    """Let each release save an adapter of each variant, unless it has; yield names and folders."""
    for release in RELEASES:
        folder = WORK / release
        if not (folder / "made.json").exists():
            with opened_overlay([f"peft=={release}"], Pip()) as overlay:
                words = [str(overlay.python), str(HERE / "adapters.py"), str(folder)]
                subprocess.run(words, check=True, env=variables(), capture_output=True)
        made = json.loads((folder / "made.json").read_text())
        for variant, (place, problem) in made.items():
            if not problem:
                yield f"{release}/{variant}", folder / place


def loaded_in(release: str, adapters: dict[str, Path]) -> SeenIn:
    """Let a release load the adapters of all, unless it has."""
    file = WORK / f"seen-{release}.json"
    if not file.exists():
        with opened_overlay([f"peft=={release}"], Pip()) as overlay, LocalPool(1, 600) as pool:
            futures = try_adapters(pool, overlay.python, _BASE, [*adapters.values()])
            found = [future.result() for future in futures]
        seen = SeenIn(
            packages=dict(found[0].packages),
            base=found[0].base,
            adapters={name: one.adapter for name, one in zip(adapters, found, strict=True)},
        )
        file.write_bytes(msgspec.json.encode(seen))
    return msgspec.json.decode(file.read_bytes(), type=SeenIn)


def main() -> None:
    """Make, load and judge all adapters; print what differs, and the counts."""
    WORK.mkdir(parents=True, exist_ok=True)
    adapters = dict(make_adapters())
    seen = {release: loaded_in(release, adapters) for release in RELEASES}
    counts: Counter[str] = Counter()
    print("| adapter | saved by | loaded in | verdict | difference |\n|" + " --- |" * 5)
    for name in adapters:
        saved, _, variant = name.partition("/")
        here = seen[saved]
        adapter = here.adapters[name]
        reference = Seen(packages=here.packages, base=here.base, adapter=adapter)
        for release, there in seen.items():
            loaded = there.adapters[name]
            without = loaded.without
            found = judge(there.base, loaded if without is None else without, reference)
            if any("has no method" in detail for detail in found.details):
                continue
            counts[found.verdict] += 1
            counts["only without unknown fields"] += without is not None
            if found.verdict != "same":
                merged = found.merged_difference
                words = WORDS[found.verdict] + (" when merged" if merged is not None else "")
                size = (found.difference if merged is None else merged) or 0.0
                print(f"| {variant} | {saved} | {release} | {words} | {size:.2g} |")
    print(f"\n| adapters saved | {len(adapters)} |")
    for what, count in counts.most_common():
        print(f"| {what} | {count:,} |")


if __name__ == "__main__":
    main()
