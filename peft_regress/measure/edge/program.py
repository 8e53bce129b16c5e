"""A program for ExecuTorch's runtime, and what it asks of a device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.export import ExportedProgram

from peft_regress.measure.edge.errors import ProgramError
from peft_regress.measure.edge.package import load, portable_kernels, quiet
from peft_regress.runs.ledger import Rows

if TYPE_CHECKING:
    from torch.fx import Node

    from peft_regress.measure.edge.owners import Owners


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


UNUSED: Final = "unused"
"""What of the plan no tensor uses at its fullest moment: tensors do not fit together without
gaps."""


@dataclass(frozen=True)
class _Planned:
    """One tensor in the plan, from its first to its last instruction."""

    module: str
    what: str
    size: int
    first: int
    last: int


def plan_rows(
    program: ExportedProgram, *, owners: Owners, labels: Mapping[str, str], planned_bytes: int
) -> Rows:
    """Return what is in memory at the fullest moment of a planned program; adds up to the plan.

    program: as it was emitted, with the plan in its nodes. labels: the names of modules by their
    paths in the exported program. A row is a module and a category of memory (`param`, `buffer`,
    `input`, `grad`, or `activation` and `temp` with the operator that fills it); what no tensor
    uses at that moment is `UNUSED` of no module.
    """
    tensors = list(_tensors(program, owners, labels))
    moment = _fullest(tensors)
    rows: Counter[tuple[str, str]] = Counter()
    for tensor in tensors:
        if tensor.first <= moment <= tensor.last:
            rows[tensor.module, tensor.what] += tensor.size
    unused = planned_bytes - sum(rows.values())
    if unused < 0:
        raise ProgramError(
            f"the program plans {planned_bytes:,} bytes, but holds {-unused:,} more at one moment"
        )
    rows["", UNUSED] += unused
    return {key: size for key, size in rows.items() if size}


def _fullest(tensors: Iterable[_Planned]) -> int:
    """Return the first instruction at which the most bytes are in use."""
    changes: Counter[int] = Counter()
    for tensor in tensors:
        changes[tensor.first] += tensor.size
        changes[tensor.last + 1] -= tensor.size
    best, moment, used = -1, 0, 0
    for position in sorted(changes):
        used += changes[position]
        if used > best:
            best, moment = used, position
    return moment


def _tensors(
    program: ExportedProgram, owners: Owners, labels: Mapping[str, str]
) -> Iterator[_Planned]:
    """Yield each planned tensor once, named by the first node that says whose it is."""
    parameters = program.graph_signature.inputs_to_parameters
    buffers = program.graph_signature.inputs_to_buffers
    gradients = _gradients(program)
    seen: set[tuple[Any, ...]] = set()
    nodes = list(program.graph.nodes)
    # A tensor is allocated by a node of its own, which knows neither module nor operator.
    for node in sorted(nodes, key=_is_allocation):
        for spec in _specs(node.meta.get("spec")):
            key = _place(spec)
            if spec.mem_id is None or key in seen:
                continue
            seen.add(key)
            if key in gradients:
                target, what = gradients[key], "grad"
            elif node.name in parameters:
                target, what = parameters[node.name], "param"
            elif node.name in buffers:
                target, what = buffers[node.name], "buffer"
            elif node.op == "placeholder":
                target, what = "", "input"
            else:
                owner = owners.owner(node)
                category = "temp" if owner.is_backward else "activation"
                target, what = f"{owner.module}.", f"{category} {_operator(node)}"
            yield _Planned(
                module=labels.get(target.rpartition(".")[0], ""),
                what=what,
                size=spec.allocated_memory,
                first=spec.lifetime[0],
                last=spec.lifetime[1],
            )


def _is_allocation(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "alloc"


def _gradients(program: ExportedProgram) -> dict[tuple[Any, ...], str]:
    """Return the parameter of each gradient that the program returns, by its place in the plan."""
    outputs = program.graph.output_node().args[0]
    found: dict[tuple[Any, ...], str] = {}
    for node, spec in zip(outputs, program.graph_signature.output_specs, strict=False):
        if spec.kind.name == "GRADIENT_TO_PARAMETER" and spec.target is not None:
            for planned in _specs(node.meta.get("spec")):
                found[_place(planned)] = spec.target
    return found


def _place(spec: Any) -> tuple[Any, ...]:
    """Return where and when a tensor is in memory: no two tensors share that."""
    return spec.mem_id, spec.mem_offset, *spec.lifetime


def _specs(found: Any) -> Iterator[Any]:
    """Yield the descriptions of tensors in what a node notes about its output."""
    if isinstance(found, list | tuple):
        for each in found:
            yield from _specs(each)
    elif hasattr(found, "allocated_memory"):
        yield found


def _operator(node: Node) -> str:
    """Return the name of an operator as an eager step has it: `aten.convolution`."""
    schema = getattr(node.target, "_schema", None)
    name: str = getattr(node.target, "__name__", str(node.target)) if schema is None else ""
    return name or str(getattr(schema, "name", "")).replace("::", ".")
