"""What a case costs in ExecuTorch's runtime, and whether it computes there what it computes here.

`training_program` and `inference_program` export; each returns a `Program` with its planned memory.
`Runtime` runs programs. `EdgePrograms` and `run_programs` do both for an adapted model, and
`edge_of_case` for a case.
"""

from peft_regress.measure.edge.case import (
    CaseEdge,
    PricedCase,
    adaptation_edge,
    edge_of_case,
    priced_case,
)
from peft_regress.measure.edge.costs import (
    EdgeModel,
    EdgePrograms,
    EdgeRun,
    run_programs,
)
from peft_regress.measure.edge.errors import ProgramError, UnsupportedProgramError
from peft_regress.measure.edge.export import inference_program, training_program
from peft_regress.measure.edge.program import Program
from peft_regress.measure.edge.runtime import Runtime

__all__ = [
    "CaseEdge",
    "EdgeModel",
    "EdgePrograms",
    "EdgeRun",
    "PricedCase",
    "Program",
    "ProgramError",
    "Runtime",
    "UnsupportedProgramError",
    "adaptation_edge",
    "edge_of_case",
    "inference_program",
    "priced_case",
    "run_programs",
    "training_program",
]
