"""Why there is no program: the exporter or the runtime refuses, or fails."""

from __future__ import annotations

from peft_regress.errors import PeftRegressError, UnsupportedCaseError


class UnsupportedProgramError(UnsupportedCaseError):
    """ExecuTorch cannot express or run this program."""


class ProgramError(PeftRegressError):
    """ExecuTorch fails on this program."""
