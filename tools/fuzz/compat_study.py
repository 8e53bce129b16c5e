"""Save an adapter of every method in every second release of peft, and load it in all the others.

    python tools/fuzz/compat_study.py --run        make, load, judge; what is done is not done again
    python tools/fuzz/compat_study.py              print the tables of docs/compat.md
    python tools/fuzz/compat_study.py --write      put them into docs/compat.md
    python tools/fuzz/compat_study.py --check      exit 1 if the page differs

The result is in compat_study.json beside this file. A run works in runs/compat-study, where it goes
on after an interrupt; it takes a quarter of an hour, a third of it for downloads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools" / "docs"))

from compat_tables import TABLES, Cell, Study, stored, summary_of  # noqa: E402
from page_tables import check_or_write, option_parser, print_tables, put  # noqa: E402

from peft_regress.overlay.overlay import opened_overlay  # noqa: E402
from peft_regress.text import clean  # noqa: E402
from peft_regress.upgrades.compat.messages import BaseMade, BaseModel, Loaded  # noqa: E402
from peft_regress.upgrades.compat.releases import AdapterLoader  # noqa: E402
from peft_regress.upgrades.compat.verdicts import Reference, judge  # noqa: E402
from peft_regress.workers.environment_variables import variables  # noqa: E402

PAGE: Final = ROOT / "docs" / "compat.md"
RESULT: Final = HERE / "compat_study.json"
WORK: Final = ROOT / "runs" / "compat-study"
RELEASES: Final = (
    *("0.10.0", "0.11.1", "0.12.0", "0.13.2", "0.14.0", "0.15.2"),
    *("0.16.0", "0.17.1", "0.18.1", "0.19.1", "0.20.0", "0.21.2"),
)
"""The last patch of each minor release: 12 of the 22 releases from 0.10 to 0.21."""

_BASE: Final = BaseModel(name="compat_base:make", inputs="compat_base:inputs")


class SeenIn(msgspec.Struct, frozen=True, kw_only=True):
    """What one release made of the adapters of all releases."""

    packages: dict[str, str]
    base: BaseMade
    adapters: dict[str, tuple[Loaded, Loaded | None]]
    """By `RELEASE/VARIANT`: as it is, and without the fields that the release does not know."""


def made(release: str) -> dict[str, str]:
    """Return why each variant could not be made in a release; '' for those that were."""
    found: dict[str, str] = json.loads((WORK / release / "made.json").read_text())
    return found


def make_adapters() -> None:
    """Let each release save an adapter of each variant, unless it has."""
    for release in RELEASES:
        if (WORK / release / "made.json").exists():
            continue
        print(f"{release}: making", flush=True)
        with opened_overlay([f"peft=={release}"]) as overlay:
            subprocess.run(
                [str(overlay.python), str(HERE / "compat_make.py"), str(WORK / release)],
                check=True,
                env=variables(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def load_adapters() -> None:
    """Let each release load the adapters of all, unless it has."""
    from compat_make import folder_of

    names = [
        (f"{release}/{variant}", WORK / release / folder_of(variant))
        for release in RELEASES
        for variant, problem in made(release).items()
        if not problem
    ]
    loader = AdapterLoader(base=_BASE, folder=HERE, time_limit=600)
    for release in RELEASES:
        file = WORK / f"seen-{release}.json"
        if file.exists():
            continue
        print(f"{release}: loading {len(names)} adapters", flush=True)
        with opened_overlay([f"peft=={release}"]) as overlay:
            found = loader.load(overlay.python, [folder for _, folder in names])
        seen = SeenIn(
            packages=dict(found[0].packages),
            base=found[0].base,
            adapters={
                name: (one.adapter, one.without)
                for (name, _), one in zip(names, found, strict=True)
            },
        )
        file.write_bytes(msgspec.json.encode(seen))


def judged() -> Study:
    """Judge each adapter in each release by the release that saved it."""
    seen = {
        release: msgspec.json.decode((WORK / f"seen-{release}.json").read_bytes(), type=SeenIn)
        for release in RELEASES
    }
    cells: list[Cell] = []
    refused_by_itself: dict[str, str] = {}
    for name in next(iter(seen.values())).adapters:
        saved, _, variant = name.partition("/")
        here = seen[saved]
        reference = Reference(
            release=saved,
            packages=here.packages,
            base=here.base,
            adapter=here.adapters[name][0],
        )
        if reference.adapter.refusal:
            refused_by_itself[name] = reference.adapter.refusal
            continue
        for release in RELEASES:
            loaded, without = seen[release].adapters[name]
            first = judge(seen[release].base, loaded, reference)
            found = first if without is None else judge(seen[release].base, without, reference)
            cells.append(
                Cell(
                    variant=variant,
                    saved=saved,
                    loaded=release,
                    verdict=found.verdict,
                    needs_edit=without is not None and found.verdict != "refused",
                    difference=found.difference,
                    merged_difference=found.merged_difference,
                    details=[clean(detail) for detail in found.details[:1]],
                )
            )
    return summary_of(
        cells,
        releases=list(RELEASES),
        packages=seen[RELEASES[-1]].packages,
        made={
            release: [variant for variant, why in made(release).items() if not why]
            for release in RELEASES
        },
        refused_by_itself=refused_by_itself,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the study, or print, write or check its tables."""
    parser = option_parser((__doc__ or "").partition("\n")[0], TABLES)
    parser.add_argument("--run", action="store_true", help="make, load and judge all adapters")
    options = parser.parse_args(arguments)
    if options.run:
        WORK.mkdir(parents=True, exist_ok=True)
        make_adapters()
        load_adapters()
        RESULT.write_bytes(stored(judged()))
        return 0
    study = Study.read(RESULT)
    tables = {name: TABLES[name](study) for name in options.only or TABLES}
    if not options.write and not options.check:
        return print_tables(tables)
    page = PAGE.read_text()
    for name, content in tables.items():
        page = put(page, "compat", name, content)
    return check_or_write(PAGE, page, writes=options.write)


if __name__ == "__main__":
    sys.exit(main())
