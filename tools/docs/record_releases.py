"""Record what old releases of peft measure, for the examples of the documents.

    python tools/docs/record_releases.py                 record all of them
    python tools/docs/record_releases.py 0.15.0          record one release; may name several

docs/upgrading.md shows searches among 22 releases. Its test replays them from `baselines/` and from
the run files that this tool writes to tests/docs/releases/: one file a release. It installs each
release into an overlay, which needs a package index.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.overlay.overlay import opened_overlay
from peft_regress.runs.run_file import write_run_file
from peft_regress.runs.schema import Ledger
from peft_regress.upgrades.measuring import MeasuringSetup, measure_cases

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "tests" / "docs" / "releases"
COSTS: Final[dict[str, tuple[str, ...]]] = {
    "0.11.1": ("shift/lora-bf16-r4/shufflenet_v2_x0_5",),
    "0.12.0": ("shift/lora-bf16-r4/shufflenet_v2_x0_5",),
    "0.15.0": ("shift/dora-r4/resnet18", "shift/dora-r4/shufflenet_v2_x0_5"),
    "0.19.1": ("shift/adalora-r4/shufflenet_v2_x0_5", "shift/loha-r4/shufflenet_v2_x0_5"),
    "0.20.0": ("shift/adalora-r4/shufflenet_v2_x0_5", "shift/loha-r4/shufflenet_v2_x0_5"),
}
"""Cases whose costs tell a release from the one before it."""
TRAINED: Final[dict[str, tuple[str, ...]]] = {
    "0.13.2": ("shift/lokr-r4/resnet18",),
    "0.14.0": ("shift/lokr-r4/resnet18",),
    "0.16.0": ("shift/dora-r4/shufflenet_v2_x0_5",),
}
"""Cases that must train to tell the release from the one before it."""
EXPLAINED: Final = ("lora-bf16", "dora-r4")
"""Methods whose costs change, so that the report needs their ledgers."""


def main() -> None:
    """Record the releases that are named, or all."""
    setup = MeasuringSetup(baselines=ROOT / "baselines", jobs=1)
    for version in sys.argv[1:] or sorted({*COSTS, *TRAINED}):
        trains = version in TRAINED
        names = (TRAINED if trains else COSTS)[version]
        with opened_overlay([f"peft=={version}"]) as overlay:
            cases = [parse_case_id(name) for name in names]
            run = measure_cases(cases, python=overlay.python, setup=setup, trains=trains)
        kept = {
            name: one
            if not trains and any(method in name for method in EXPLAINED)
            else msgspec.structs.replace(one, ledger=Ledger())
            for name, one in run.cases.items()
        }
        path = FOLDER / f"peft-{version}.json"
        write_run_file(path, msgspec.structs.replace(run, cases=kept), {"benchmarks": []})
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
