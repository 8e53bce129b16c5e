"""Fine-tune the candidates on the user's own data, and write the best one as a `FineTune`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from peft_regress.catalogue.matrix import method_at
from peft_regress.choosing.candidates import adapted_by
from peft_regress.choosing.ranking import Candidate, is_below
from peft_regress.fine_tune import FineTune
from peft_regress.imports import told
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import device_of, on_device, single_thread, undisturbed


def train_all(
    fine_tune: FineTune,
    candidates: Sequence[Candidate],
    storage: Path,
    *,
    say: Callable[[str], None],
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the candidates with their scores, and why some could not be trained.

    All that fit take each seed in turn, for the steps of the case. Between two seeds those are
    dropped that score below the best by more than the noise of the seeds so far; they keep their
    scores. The score is the case's own, else the accuracy, else the negated test loss.
    """
    failed: dict[str, str] = {}
    found = {one.name: one for one in candidates}
    racing = [one.name for one in candidates if not one.lacks]
    for seed in range(fine_tune.seeds):
        for name in racing:
            one = found[name]
            try:
                score = _score(fine_tune, one, storage, seed=seed)
            except Exception as error:  # noqa: BLE001  (whatever the case or a library raises)
                failed[name] = told(error)
                continue
            found[name] = dataclasses.replace(one, scores=(*one.scores, score))
            say(f"seed {seed}: {name} {score:.4g}")
        racing = [name for name in racing if name not in failed]
        best = max((found[name] for name in racing), key=lambda one: one.score, default=None)
        if best is not None and seed:
            racing = [name for name in racing if not is_below(found[name], best)]
    return [one for one in found.values() if one.name not in failed], failed


@single_thread()
@undisturbed()
def _score(fine_tune: FineTune, one: Candidate, storage: Path, *, seed: int) -> float:
    recipe = Recipe.of(adapted_by(fine_tune, method_at(one.method, one.rank)), storage)
    data = recipe.load_data()
    model = recipe.adapted_model(seed)
    with warnings.catch_warnings(action="ignore"):
        recipe.train(
            model, recipe.make_optimizer(model), recipe.batches(data, seed=seed), seed=seed
        )
    batches = [on_device(b, device_of(model)) for b in data.test_batches(recipe.test_batch)]
    scores = recipe.objective.scores(model, batches)
    return scores.get("score", scores.get("accuracy", -scores["loss"]))


def as_code(fine_tune: FineTune, one: Candidate) -> str:
    """Return the case with a candidate's adapter, to paste where its functions are known."""
    adapted = adapted_by(fine_tune, method_at(one.method, one.rank))
    lines = [f'    "{adapted.id}",']
    for field in dataclasses.fields(FineTune):
        value = getattr(adapted, field.name, None)
        if field.name in {"id", "case", "_"} or value == field.default:
            continue
        shown = getattr(value, "__name__", None) if callable(value) else repr(value)
        lines.append(f"    {field.name}={shown or '...'},")
    return "\n".join(("FineTune(", *lines, ")"))
