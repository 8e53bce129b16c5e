"""Draw the pictures of the documents, or check that they are up to date.

    python tools/docs/pictures.py                      draw those that are out of date
    python tools/docs/pictures.py --check              exit 1 if one is out of date
    python tools/docs/pictures.py --only verdict       one picture; may name several
    python tools/docs/pictures.py --force              draw all again, after a change in style

A picture contains a digest of the numbers or the text that it was drawn from. Those of the paper
are measured, which takes a minute; the others come from `baselines/`.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import picture_data as data

from peft_regress.runs.schema import canonical_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PICTURES", "Picture", "is_current", "main"]

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: its name, what it shows, and the function of `picture_drawing` that draws it."""

    name: str
    data: Callable[[], dict[str, Any]]
    drawing: str
    measures: bool = True

    @property
    def path(self) -> Path:
        """Return the path of the SVG."""
        return FOLDER / f"{self.name}.svg"

    def draw(self, shown: dict[str, Any]) -> str:
        """Return the SVG."""
        import picture_drawing

        draw: Callable[[dict[str, Any], str], str] = getattr(picture_drawing, self.drawing)
        return draw(shown, f"data {canonical_digest(shown)}")


PICTURES: Final = {
    picture.name: picture
    for picture in (
        Picture(name="paper_memory", data=data.memory_data, drawing="draw_memory"),
        Picture(name="paper_flops", data=data.flops_data, drawing="draw_flops"),
        Picture(name="paper_ranks", data=data.ranks_data, drawing="draw_ranks"),
        Picture(name="pareto", data=data.pareto_data, drawing="draw_pareto", measures=False),
        Picture(name="verdict", data=data.verdict_data, drawing="draw_verdict", measures=False),
    )
}


def is_current(picture: Picture, shown: dict[str, Any]) -> bool:
    """Return whether a picture exists and was drawn from these numbers or this text."""
    if not picture.path.exists():
        return False
    found = re.search(r"data (sha256:[0-9a-f]{64})", picture.path.read_text())
    return found is not None and found[1] == canonical_digest(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw or check the chosen pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="exit 1 if one is out of date")
    mode.add_argument("--force", action="store_true", help="also draw pictures that are current")
    parser.add_argument("--only", nargs="+", choices=PICTURES, metavar="PICTURE", help="which")
    chosen = parser.parse_args(arguments)
    old = False
    for name in chosen.only or PICTURES:
        picture = PICTURES[name]
        shown = picture.data()
        current = is_current(picture, shown)
        if chosen.check:
            old |= not current
            remedy = "" if current else f": `python tools/docs/pictures.py --only {name}` draws it"
            print(f"{picture.path.name} is {'current' if current else 'out of date'}{remedy}")
        elif chosen.force or not current:
            picture.path.write_text(picture.draw(shown))
            print(f"drew {picture.path}")
    return int(old)


if __name__ == "__main__":
    sys.exit(main())
