"""Show how much the losses of filled adapters change by rounding, and by a wrong factor.

    python tools/studies/fill_study.py

Every adapter of both matrices is filled as `measure` fills it: as usual, with ATen, oneDNN and MKL
limited to AVX2 and to SSE4, and as usual with all draws 1 % larger. Prints Markdown: for each
method the largest change by rounding over its cases, and the change by that 1 % in the case that
sees it least. The evidence for `policy.filled_bound`; about three minutes on one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Final

from variants import VARIANTS

_BASELINES: Final = Path(__file__).resolve().parents[2] / "baselines"
_WRONG: Final = 1.01


def losses(scale: float) -> dict[str, tuple[float, ...]]:
    """Return the losses of each case's fills, with draws that are `scale` times as large."""
    from peft_regress import registry
    from peft_regress.catalogue.matrix import matrix_cases
    from peft_regress.catalogue.methods import PeftAdapter
    from peft_regress.measure.invariants import filled
    from peft_regress.measure.recipe import Recipe
    from peft_regress.measure.rounds import PROBE_ITEMS

    vars(filled).update({name: scale * vars(filled)[name] for name in ("_SPREAD", "_SCALE_SPREAD")})
    found = {}
    for case in (case for matrix in ("default", "extended") for case in matrix_cases(matrix)):
        recipe = Recipe.of(case, _BASELINES)
        if not isinstance(registry.get("method", case.method), PeftAdapter):
            continue
        base = recipe.base_model(0)
        expected = recipe.adapter.expected_trainable(base) or {}
        probe = recipe.load_data().probe(PROBE_ITEMS)
        try:
            adapted = recipe.adapt(base, seed=0)
            made = filled.Filled(
                adapted,
                adapter=recipe.adapter,
                objective=recipe.objective,
                parameters=[n for n in recipe.adapter.adapter_parameters(adapted) if n in expected],
                copies=(),
                probe=probe,
                wide_probe=filled.one_wide_image(probe),
            )
        except (RuntimeError, ValueError):
            continue  # the library cannot run this case
        found[case.id] = made.losses
    return found


def _elsewhere(variant: str) -> dict[str, list[float]]:
    """Return the losses of another process that is limited to other instructions."""
    done = subprocess.run(
        [sys.executable, __file__, "losses"],
        env={**os.environ, **VARIANTS[variant]},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table, or in the other process the losses as JSON."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if sys.argv[1:] == ["losses"]:
        print(json.dumps(losses(1.0)))
        return
    here, others = losses(1.0), [_elsewhere(variant) for variant in ("avx2", "sse")]
    wrong = losses(_WRONG)
    moved: dict[str, float] = defaultdict(float)
    seen: dict[str, float] = {}
    for case, values in here.items():
        method = case.split("/")[1]
        moved[method] = max(moved[method], *(_change(values, other[case]) for other in others))
        seen[method] = min(seen.get(method, 1.0), _change(values, wrong[case]))
    print(f"{len(here)} cases; the largest change by rounding is {max(moved.values()):.1e}\n")
    print("| method | by rounding | by 1 % |\n| --- | ---: | ---: |")
    for method in sorted(moved):
        print(f"| {method} | {moved[method]:.1e} | {seen[method]:.1e} |")


def _change(old: tuple[float, ...], new: tuple[float, ...] | list[float]) -> float:
    return max(abs(b - a) / abs(a) for a, b in zip(old, new, strict=True))


if __name__ == "__main__":
    main()
