"""Count the lines of each part of the repository; `docs/readability.py` counts words.

    python tools/lines.py

Exit code 1 if a part has more than its budget. A budget only goes down: whoever takes lines out
lowers it, whoever adds takes others out.
"""

import sys
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]


class Part(NamedTuple):
    """Some files of the repository, and how much they may hold."""

    what: str
    patterns: tuple[str, ...]
    counted: str
    """`lines` or `files`."""
    at_most: int


PARTS: Final = (
    Part("peft_regress/, Python", ("peft_regress/**/*.py",), "lines", 36_188),
    Part("modules there", ("peft_regress/**/*.py",), "files", 221),
    Part("fuzz/peft_fuzz/", ("fuzz/peft_fuzz/**/*.py",), "lines", 9_376),
    Part(
        "JavaScript and CSS of the page",
        ("peft_regress/**/*.js", "peft_regress/**/*.css"),
        "lines",
        3_005,
    ),
    Part("tests, both", ("tests/**/*.py", "fuzz/tests/**/*.py"), "lines", 41_843),
    Part("tools, both", ("tools/**/*.py", "fuzz/tools/**/*.py"), "lines", 7_848),
)


def size_of(part: Part) -> int:
    """Return how much the files of a part hold."""
    texts = [
        path.read_text(encoding="utf-8") for pattern in part.patterns for path in ROOT.glob(pattern)
    ]
    if part.counted == "files":
        return len(texts)
    return sum(text.count("\n") for text in texts)


def main() -> None:
    """Print the table."""
    print("| what | now | at most |\n| --- | --- | --- |")
    is_over = False
    for part in PARTS:
        size = size_of(part)
        is_over |= size > part.at_most
        more = "" if size <= part.at_most else " **(over)**"
        print(f"| {part.what} | {size:,}{more} | {part.at_most:,} |")
    sys.exit(is_over)


if __name__ == "__main__":
    main()
