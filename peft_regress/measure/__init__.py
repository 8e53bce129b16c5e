"""Measure a case: cost of one training step, a brief fine-tune for each seed, invariants."""

from peft_regress.measure.case import briefly, measure, recipe_of
from peft_regress.measure.costs import ProfileCache
from peft_regress.measure.definition import define
from peft_regress.measure.recipe import Recipe
from peft_regress.runs.schema import Measurement

__all__ = ["Measurement", "ProfileCache", "Recipe", "briefly", "define", "measure", "recipe_of"]
