"""What a case costs in ExecuTorch's runtime, and whether it computes there what it computes here.

`training_program` and `inference_program` export; each returns a `Program` with its planned memory.
"""

from peft_regress.measure.edge.errors import ProgramError, UnsupportedProgramError
from peft_regress.measure.edge.export import inference_program, training_program
from peft_regress.measure.edge.program import Program

__all__ = [
    "Program",
    "ProgramError",
    "UnsupportedProgramError",
    "inference_program",
    "training_program",
]
