"""Measure a case: cost of one training step, a brief fine-tune per seed, invariants."""

from peft_regress.measure.case import Measurement, define, measure

__all__ = ["Measurement", "define", "measure"]
