"""A program for ExecuTorch's runtime, and what it asks of a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.export import ExportedProgram

from peft_regress.measure.edge.package import load, portable_kernels, quiet
from peft_regress.measure.edge.plan import plan_rows
from peft_regress.runs.ledger import Rows

if TYPE_CHECKING:
    from peft_regress.measure.edge.names import Owners

_IN_EVERY_RUNTIME: Final = "executorch_prim::"
"""Operators that the runtime has itself: arithmetic on shapes, views."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A planned program, which the runtime can run, and what it asks of a device."""

    content: bytes = field(repr=False)
    """The `.pte` file."""

    program_bytes: int
    """The size of the file, in which the constants are."""
    planned_bytes: int
    """What the runtime allocates before the first step: inputs, activations and temporaries, and of
    a training program also the trained parameters and all gradients. Frozen parameters are in the
    file."""
    plan: Rows
    """`planned_bytes` by module and category; adds up to it."""
    calls: Mapping[str, int]
    """How often each operator is called, by a name such as `aten::convolution.out`."""
    without_kernel: tuple[str, ...]
    """The operators without a portable kernel: a runtime that has no other kernel refuses them."""
    draws: bool
    """Whether it draws random numbers, which the runtime draws otherwise than PyTorch."""

    @property
    def operators(self) -> int:
        """Return how many operators one run calls."""
        return sum(self.calls.values())


def planned_program(
    exported: ExportedProgram, *, owners: Owners, labels: Mapping[str, str]
) -> Program:
    """Lower an exported program to the runtime's operators, and plan its memory.

    labels: the names of modules by their paths in the exported program. Passes on what ExecuTorch
    raises.
    """
    with quiet():
        manager = _emitted(_lowered(exported))
        content = bytes(manager.buffer)
        emitted = manager.exported_program()
    methods = manager.executorch_program.execution_plan
    planned = sum(size for method in methods for size in method.non_const_buffer_sizes)
    calls = _calls(methods)
    kernels = portable_kernels()
    return Program(
        content=content,
        program_bytes=len(content),
        planned_bytes=planned,
        plan=plan_rows(emitted, owners=owners, labels=labels, planned_bytes=planned),
        calls=calls,
        draws=_draws(exported),
        without_kernel=tuple(
            name for name in calls if name not in kernels and not name.startswith(_IN_EVERY_RUNTIME)
        ),
    )


def _lowered(exported: ExportedProgram) -> Any:
    """Replace torch's operators by the runtime's."""
    exir = load("executorch.exir")
    # The check knows the operators of inference alone.
    unchecked = exir.EdgeCompileConfig(_check_ir_validity=False)
    return exir.to_edge(exported, compile_config=unchecked)


def _emitted(lowered: Any) -> Any:
    """Plan the memory and write the program."""
    return lowered.to_executorch()


def _draws(exported: ExportedProgram) -> bool:
    tag = torch.Tag.nondeterministic_seeded
    return any(tag in getattr(node.target, "tags", ()) for node in exported.graph.nodes)


def _calls(methods: Any) -> dict[str, int]:
    """Count the operators that the methods of a program call, sorted by name."""
    found: Counter[str] = Counter()
    for method in methods:
        names = [
            f"{operator.name}.{operator.overload}" if operator.overload else operator.name
            for operator in method.operators
        ]
        for chain in method.chains:
            for instruction in chain.instructions:
                index = getattr(instruction.instr_args, "op_index", None)
                if index is not None:
                    found[names[index]] += 1
    return dict(sorted(found.items()))
