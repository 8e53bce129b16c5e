"""What defines a case: what its author wrote, never code, package versions or derived tensors."""

from typing import Any, Final

from peft_regress.catalogue.built_in import BuiltIn
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.scripts.script_case import ScriptRecipe
from peft_regress.project.fine_tune import FineTune
from peft_regress.runs.schema import canonical_digest, canonical_json
from peft_regress.text import model_name, redacted

PROTOCOL_VERSION: Final = 1
"""Raised by hand when the way of measuring changes: older baselines become incomparable."""
FIRST_LOSSES: Final = 4


def define(recipe: Recipe | ScriptRecipe) -> str:
    """Return the digest of what defines a case.

    Of a case of one's own, weights, batches and the optimizer's numbers are inputs of the record.
    Raises `SourceError` if a built-in case has no source checkpoint.
    """
    if isinstance(recipe, ScriptRecipe):
        return recipe.definition
    fine_tune = recipe.fine_tune
    defined: dict[str, Any] = {"protocol_version": PROTOCOL_VERSION, "case": recipe.case.id}
    if isinstance(fine_tune, BuiltIn):
        defined |= fine_tune.defined_by()
        dropout = ", dropout in train mode" if fine_tune.method.trains_with_dropout else ""
        if fine_tune.runs_in_executorch:
            return canonical_digest(defined)
        defined |= {
            "loop": {
                "steps": fine_tune.steps,
                "batch_size": fine_tune.batch,
                "schedule": "cosine to zero",
                "loss": "cross-entropy",
                "mode": f"eval, BatchNorm in train mode where its statistics are trained{dropout}",
            },
            "seeds": list(recipe.seeds),
            "first_losses": FIRST_LOSSES,
        }
    else:
        defined |= {**_stated(fine_tune), "adapter": recipe.adapter.definition()}
    return canonical_digest(defined)


def settings_of(recipe: Recipe) -> dict[str, str]:
    """Return what its author set of what defines a case, by name, for people."""
    stated = _stated(recipe.fine_tune)
    stated |= {f"adapter {name}": value for name, value in recipe.adapter.described().items()}
    return {
        name: redacted(model_name(value) if name.endswith("_name_or_path") else value)
        if isinstance(value, str)
        else redacted(canonical_json(value).decode())
        for name, value in stated.items()
    }


def _stated(fine_tune: FineTune) -> dict[str, Any]:
    numbers = {name: getattr(fine_tune, name) for name in ("steps", "batch", "seeds")}
    mode = fine_tune.mode if isinstance(fine_tune.mode, str) else "callable"
    return {**numbers, "mode": mode, "also_train": sorted(fine_tune.also_train)}
