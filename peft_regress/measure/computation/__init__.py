"""Certify equal computations: what a case trains on, and by which operators, as two digests."""

from peft_regress.measure.computation.trace import TRACED_STEPS, ComputationTrace

__all__ = ["TRACED_STEPS", "ComputationTrace"]
