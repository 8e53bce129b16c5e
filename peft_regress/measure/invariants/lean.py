"""Whether a lean model trains as the plain one."""

from collections.abc import Sequence

from peft_regress.measure.data import Data
from peft_regress.measure.invariants import facts
from peft_regress.measure.recipe import Recipe
from peft_regress.measure.training import device_of, undisturbed
from peft_regress.memory.packing import set_packings


@undisturbed()
@facts.judged
def lean_trains_alike(recipe: Recipe, data: Data, losses: Sequence[float]) -> None:
    """Train a plain model from the start of the first seed; its losses must be equal.

    losses: those of the lean model, in nats.
    """
    seed = recipe.seeds[0]
    plain = recipe.adapted_model(seed)
    set_packings(plain, {})
    if device_of(plain).type != "cpu":
        raise facts.null("modules pack on a CPU alone")
    batches = recipe.batches(data, seed=seed)
    expected = recipe.train(plain, recipe.make_optimizer(plain), batches, seed=seed).losses
    for step, (one, other) in enumerate(zip(losses, expected, strict=True), start=1):
        if one != other:
            note = f"the loss of step {step} is {one!r} if lean, {other!r} otherwise"
            raise facts.false(note, size=abs(one - other))
