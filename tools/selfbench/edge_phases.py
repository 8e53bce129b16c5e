"""Tell where the time of the edge matrix goes: processor seconds by phase, for each architecture.

    python tools/selfbench/edge_phases.py                      the table in docs/edge.md
    python tools/selfbench/edge_phases.py --cases '*/resnet18' --by method

Prints two tables in Markdown: of a run that knows no program, and of the same run once more. Each
second counts for the innermost phase that it was spent in; those of the runtime, which is a process
of its own, for the runtime. Functions are wrapped from outside: the package has no timers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Final

from phases import BUILD, DATA, REST, Clock, seconds_of, table

from peft_regress.files import CACHE_VARIABLE

COSTS: Final = "costs of the eager step"
EXPORT: Final = "torch.export"
KEY: Final = "the keys of programs"
JOINT: Final = "the backward pass"
EDGE: Final = "to_edge"
PROGRAM: Final = "to_executorch"
ROWS: Final = "the plan by module"
EAGER: Final = "running in PyTorch"
RUNTIME: Final = "running in ExecuTorch"
PHASES: Final = (
    BUILD, DATA, COSTS, EXPORT, KEY, JOINT, EDGE, PROGRAM, ROWS, EAGER, RUNTIME, REST,
)  # fmt: skip


def all_seconds() -> float:
    """Return the processor seconds of this process, what ended below it, and the runtime."""
    from peft_regress.measure.edge.runtime import shared_runtime

    running = shared_runtime()._process  # noqa: SLF001  (only its times are read)
    seconds = sum(os.times()[:4])
    if running is not None:
        fields = Path(f"/proc/{running.pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
        seconds += sum(map(int, fields.split()[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def watch_edge(clock: Clock) -> None:
    """Wrap the functions of each phase."""
    from peft_regress.measure import case
    from peft_regress.measure.edge import costs, export, kept, program
    from peft_regress.measure.edge.runtime import Runtime
    from peft_regress.measure.recipe import Recipe

    for name in ("base_model", "adapt"):
        clock.wrap(Recipe, name, BUILD)
    clock.wrap(Recipe, "load_data", DATA)
    clock.wrap(case, "define", DATA)
    clock.wrap(case, "case_costs", COSTS)
    clock.wrap(export, "_exported", EXPORT)
    clock.wrap(export, "_joint", JOINT)
    for name in ("program_key", "run_key"):
        clock.wrap(kept, name, KEY)
    clock.wrap(program, "_lowered", EDGE)
    clock.wrap(program, "_emitted", PROGRAM)
    clock.wrap(program, "plan_rows", ROWS)
    for name in ("train_here", "run_here"):
        clock.wrap(costs, name, EAGER)
    clock.wrap(Runtime, "_run", RUNTIME)


def main() -> None:
    """Measure the chosen cases twice and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", help="a glob on ids; by default all of the edge matrix")
    parser.add_argument("--by", choices=("architecture", "method", "task", "id"),
                        default="architecture")  # fmt: skip
    chosen = parser.parse_args()

    from peft_regress.catalogue.matrix import select_cases
    from peft_regress.measure.edge.package import require_executorch

    cases = select_cases(chosen.cases, matrix="edge")
    started = all_seconds()
    require_executorch(runs=True)
    print(f"Imports, once for each process: {all_seconds() - started:.1f} s.\n")
    clock = Clock(all_seconds)
    watch_edge(clock)
    with tempfile.TemporaryDirectory(prefix="peft-regress-phases-") as folder:
        os.environ[CACHE_VARIABLE] = folder
        print(table(seconds_of(cases, clock)[0], by=chosen.by, phases=PHASES), flush=True)
        print("\nOnce more, with all programs known:\n")
        print(table(seconds_of(cases, clock)[0], by=chosen.by, phases=PHASES))


if __name__ == "__main__":
    main()
