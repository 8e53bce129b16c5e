"""Write the verdict on every case of every pair of stored entries, to compare two versions.

python tools/storage/verdicts.py > before.txt   # with the one version
python tools/storage/verdicts.py > after.txt    # with the other
diff before.txt after.txt
"""

import itertools
import sys
from pathlib import Path

from peft_regress.baselines.storage import baseline_files, read_entries_of
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of

BASELINES = Path(__file__).parents[2] / "baselines"


def main() -> None:
    """Print a line for each reason, and for each case without one."""
    storage = Path(sys.argv[1]) if len(sys.argv) > 1 else BASELINES
    sides = {
        entry.path.stem: observations_of(entry.run, entry.path.stem)
        for entry in read_entries_of(baseline_files(storage), ledgers=True)
    }
    for old, new in itertools.permutations(sides, 2):
        for case in judge(sides[old], sides[new], expected=sides[new]).cases:
            print(old, new, case.id, case.verdict)
            for reason in case.reasons:
                print("   ", reason.name, reason.verdict, reason.old, reason.new)


if __name__ == "__main__":
    main()
