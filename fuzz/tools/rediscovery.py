"""Let the fuzzer look for defects that old releases of peft had, without being told of them.

    python fuzz/tools/rediscovery.py                      search each release, decide, print
    python fuzz/tools/rediscovery.py --minutes 2          a shorter search of each release
    python fuzz/tools/rediscovery.py --releases 0.15.2    only these
    python fuzz/tools/rediscovery.py --list               the defects, and where they are sought
    python fuzz/tools/rediscovery.py --decide             decide by the searches so far
    python fuzz/tools/rediscovery.py --write              write the tables of docs/fuzz-evidence.md
    python fuzz/tools/rediscovery.py --check              exit 1 if the page has other tables

Each release of `rediscovery.toml` is searched by `peft_fuzz`, with all methods, for ten
minutes on two cores. All that is found is kept in `runs/rediscovery`; a search that was interrupted
goes on, one that had its minutes is not repeated. A defect counts as found if a finding of the last
release that has it fits one of the signs, and the finding's example runs without a failure on the
first release that mended it. `--decide` and a search write the results to
`rediscovery_results.json`, of which `--write` makes the tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rediscovery_data import read_known
from rediscovery_results import RESULTS, Results, decide, read_results
from rediscovery_runs import SearchSettings, Studied, search
from rediscovery_tables import TABLES, lines, tables

from peft_regress.errors import InputError, PeftRegressError
from peft_regress.files import write_atomic
from peft_regress.interrupts import ending_signals_interrupt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rediscovery_data import Known

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "fuzz" / "docs" / "fuzz-evidence.md"
FOLDER: Final = ROOT / "runs" / "rediscovery"


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--list", action="store_true", help="print the defects, search nothing")
    mode.add_argument("--decide", action="store_true", help="decide by the searches so far")
    mode.add_argument("--write", action="store_true", help="write the tables into the page")
    mode.add_argument("--check", action="store_true", help="exit 1 if the page differs")
    parser.add_argument("--releases", nargs="+", metavar="VERSION", help="search only these")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each release")
    parser.add_argument("--jobs", type=int, default=2, help="processes that search at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what was found so far")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    return parser.parse_args(arguments)


def _chosen(known: Known, releases: Sequence[str] | None) -> list[str]:
    """Return the releases to search. Raises `InputError` for one that no defect names."""
    unknown = sorted({*releases} - {*known.releases}) if releases else []
    if unknown:
        raise InputError(
            f"no defect is sought in {unknown[0]}; releases: {', '.join(known.releases)}"
        )
    return [one for one in known.releases if not releases or one in releases]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _search(known: Known, chosen: argparse.Namespace) -> bool:
    """Search each release; return whether all had their minutes."""
    for release in _chosen(known, chosen.releases):
        ended = search(
            Studied(chosen.folder, release),
            known.requirements(release),
            SearchSettings(minutes=chosen.minutes, jobs=chosen.jobs, seed=chosen.seed),
            say=_say,
        )
        if not ended:
            _say(f"peft {release} was not searched for {chosen.minutes:g} minutes: same command")
            return False
    return True


def _put(results: Results, known: Known, *, writes: bool) -> int:
    sys.path.append(str(ROOT / "tools" / "docs"))
    from page_tables import check_or_write, put

    page = PAGE.read_text(encoding="utf-8")
    found = tables(results, known)
    for name in TABLES:
        page = put(page, "fuzz-evidence", name, found[name])
    return check_or_write(PAGE, page, writes=writes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and decide, or do what an option says; return the exit code."""
    chosen = _parsed(arguments)
    try:
        known = read_known()
        if chosen.list:
            print("\n".join(lines(known)))
            return 0
        if chosen.write or chosen.check:
            return _put(read_results(chosen.results), known, writes=chosen.write)
        is_whole = True
        if not chosen.decide:
            with ending_signals_interrupt():
                is_whole = _search(known, chosen)
        results = decide(known, chosen.folder, jobs=chosen.jobs, say=_say)
        content = msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n"
        write_atomic(chosen.results, content)
        print("\n".join(lines(known, results)))
    except PeftRegressError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
    return 0 if is_whole else 3


if __name__ == "__main__":
    sys.exit(main())
