"""Export a training step or a forward pass as a program for ExecuTorch, and plan its memory.

`torch.export` names the module of each node of a forward pass. `_export_forward_backward` traces
that pass with its backward pass twice, and loses the names in the second trace. Each node of the
second trace keeps, as the last line of its stack trace, the statement of the first trace that made
it; and in the first trace torch copies the annotations of forward nodes to their backward nodes. So
the names are annotated before, and read from the first trace where torch does this. Where it works
differently, every byte is counted and no module named.
"""

import contextlib
import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from peft_regress.cost.batches import call_model, floats_in, leaves_of, map_batch
from peft_regress.cost.module_trail import module_names
from peft_regress.gc_pause import paused_gc
from peft_regress.measure.edge import package
from peft_regress.runs.ledger import Rows
from peft_regress.text import clean

Loss = Callable[[nn.Module, Any], Tensor]

MODEL: Final = "model"
"""The name of the model in the exported module: its parameters are `model.<name>`."""
UNUSED: Final = "unused"
"""What of the plan no tensor uses at its fullest moment: there are gaps between tensors."""
_IN_EVERY_RUNTIME: Final = "executorch_prim::"
"""Operators that the runtime has itself: arithmetic on shapes, views."""
_LONGEST: Final = 300
_REFUSALS: Final = {
    "GuardOnDataDependentSymNode", "NotImplementedError", "SpecViolationError",
    "Unsupported", "UserError",
}  # fmt: skip
"""Errors by which torch and ExecuTorch say that they do not express something."""
_NO_KERNEL: Final = "Missing out variants"
_KEY: Final = "peft_regress_module"
_ASSIGNED: Final = re.compile(r"(\w+) = ")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A planned program, which the runtime can run, and what it asks of a device."""

    content: bytes = field(repr=False)
    """The `.pte` file, in which the constants and the frozen parameters are."""
    planned_bytes: int
    """What the runtime allocates before the first step: inputs, activations and temporaries, and of
    a training program also the trained parameters and all gradients."""
    plan: Rows
    """`planned_bytes` by module and category; adds up to it."""
    calls: Mapping[str, int]
    """How often each operator is called, by a name such as `aten::convolution.out`."""
    without_kernel: tuple[str, ...]
    """The operators without a portable kernel: a runtime that has no other kernel refuses them."""
    draws: bool
    """Whether it draws random numbers, which the runtime draws otherwise than PyTorch."""


def training_program(model: nn.Module, batch: Any, *, loss: Loss) -> Program:
    """Export forward pass, loss and backward pass of one training step, and plan its memory.

    The program takes the tensors of the batch in their order, of these shapes alone. It returns the
    loss and the gradients, and holds the trained parameters, which the optimizer changes in place.

    model: in its training mode; it is copied. batch: a tree of tensors. loss: as of `EdgeModel`.

    Raises `InputError` without ExecuTorch, `UnsupportedProgramError` for a step that it does not
    express, `ProgramError` if it fails.
    """
    return _planned(_Exported(copy.deepcopy(model), batch, loss), batch, is_step=True)


def inference_program(model: nn.Module, batch: Any) -> Program:
    """Export a forward pass in eval mode, and plan its memory.

    The program takes the tensors of the batch in their order, and returns the floating-point
    tensors of the output. Arguments and errors are as of `training_program`; see `call_model`.
    """
    model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    forward = _Exported(model, batch, lambda *run: tuple(floats_in(call_model(*run))))
    return _planned(forward, batch, is_step=False)


class _Exported(nn.Module):
    """A model and what is run with it as a module; the inputs are the tensors of a batch."""

    def __init__(self, model: nn.Module, batch: Any, run: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model = model
        self._batch = batch
        self._run = run

    def forward(self, *leaves: Tensor) -> Any:
        remaining = iter(leaves)
        return self._run(self.model, map_batch(self._batch, lambda _: next(remaining)))


def _planned(module: _Exported, batch: Any, *, is_step: bool) -> Program:
    package.require_executorch(runs=False)
    names = module_names(module.model)
    paths = module.model.named_modules(prefix=MODEL)
    labels = {path: names[each] for path, each in paths}
    with _refused(), paused_gc(), package.quiet():
        graph = torch.export.export(module, tuple(leaves_of(batch)))
        exported, owner_of = _joint(graph) if is_step else (graph, _owner_in_forward)
        # Such as BatchNorm's statistics.
        for buffer in exported.graph_signature.buffers_to_mutate.values():
            name = buffer.removeprefix(f"{MODEL}.")
            problem = f"the step changes a buffer, {name}, which a program does not keep"
            raise package.UnsupportedProgramError(problem)
        exir = package.load("executorch.exir")
        # The check knows the operators of inference alone.
        unchecked = exir.EdgeCompileConfig(_check_ir_validity=False)
        manager = exir.to_edge(exported, compile_config=unchecked).to_executorch()
        methods = manager.executorch_program.execution_plan
        planned = sum(size for method in methods for size in method.non_const_buffer_sizes)
        calls = _calls(methods)
        outside = (name for name in calls if not name.startswith(_IN_EVERY_RUNTIME))
        kernels = package.portable_kernels()
        seeded = torch.Tag.nondeterministic_seeded
        return Program(
            content=bytes(manager.buffer),
            planned_bytes=planned,
            plan=_plan_rows(_tensors(manager.exported_program(), owner_of, labels), planned),
            calls=calls,
            draws=any(seeded in getattr(n.target, "tags", ()) for n in exported.graph.nodes),
            without_kernel=tuple(name for name in outside if name not in kernels),
        )


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Turn what the exporter raises into this case's state, with what it says in one line."""
    try:
        yield
    except package.UnsupportedProgramError:
        raise
    except Exception as error:  # (whatever the exporter raises)
        kind = type(error).__name__
        said = clean(str(error), longest=_LONGEST)
        is_refusal = kind in _REFUSALS or _NO_KERNEL in said
        raised = package.UnsupportedProgramError if is_refusal else package.ProgramError
        raise raised(f"{kind}: {said}" if said else kind) from error


def _calls(methods: Any) -> dict[str, int]:
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


class _Owner(NamedTuple):
    module: str
    """A path of the exported module; '' is the module itself, or unknown."""
    is_backward: bool


def _owner_in_forward(node: Node) -> _Owner:
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return _Owner(paths[-1] if paths else "", is_backward=False)


def _joint(exported: ExportedProgram) -> tuple[ExportedProgram, Callable[[Node], _Owner]]:
    for node in exported.graph.nodes:
        if node.op == "call_function":
            custom = node.meta.get("custom") or {}
            node.meta["custom"] = {**custom, _KEY: _owner_in_forward(node).module}
    found: dict[str, _Owner] = {}
    capture = package.load("torch._functorch._aot_autograd.graph_capture")
    annotations = "copy_fwd_metadata_to_bw_nodes"
    copy_them = getattr(capture, annotations, lambda _: None)

    def copy_and_collect(graph_module: GraphModule) -> None:
        copy_them(graph_module)
        for node in graph_module.graph.nodes:
            if node.op != "call_function":
                continue
            module = (node.meta.get("custom") or {}).get(_KEY)
            if module is None:
                # A sum of gradients that autograd makes between two modules.
                before = (found.get(each.name) for each in node.all_input_nodes)
                module = next((each.module for each in before if each is not None), "")
            is_backward = node.meta.get("partitioner_tag") == "is_backward"
            found[node.name] = _Owner(module, is_backward=is_backward)

    experimental = package.load("torch.export.experimental")
    with mock.patch.object(capture, annotations, copy_and_collect, create=True):
        joint = experimental._export_forward_backward(exported)  # noqa: SLF001
    nobody = _Owner("", is_backward=False)
    return joint, lambda node: found.get(_name_in_first_trace(node), nobody)


def _name_in_first_trace(node: Node) -> str:
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    match = _ASSIGNED.match(lines[-1].strip()) if lines else None
    return match[1] if match else ""


class _PlannedTensor(NamedTuple):
    """One tensor in the plan, from its first to its last instruction."""

    module: str
    what: str
    size: int
    first: int
    last: int


def _plan_rows(planned: Iterable[_PlannedTensor], planned_bytes: int) -> Rows:
    """Return what is in memory at the fullest moment of a planned program; adds up to the plan."""
    # A row is a module and a category of memory (`param`, `buffer`, `input`, `grad`, or
    # `activation` and `temp` with the operator that fills it), or `UNUSED` of no module.
    tensors = list(planned)
    changes: Counter[int] = Counter()
    for tensor in tensors:
        changes[tensor.first] += tensor.size
        changes[tensor.last + 1] -= tensor.size
    positions = sorted(changes)
    used = itertools.accumulate(changes[position] for position in positions)
    # The first moment at which the most is in use.
    moment = max(zip(used, positions, strict=True), key=lambda at: at[0], default=(0, 0))[1]
    rows: Counter[tuple[str, str]] = Counter()
    for tensor in tensors:
        if tensor.first <= moment <= tensor.last:
            rows[tensor.module, tensor.what] += tensor.size
    rows["", UNUSED] += planned_bytes - sum(rows.values())
    return {key: size for key, size in rows.items() if size}


def _tensors(
    program: ExportedProgram, owner_of: Callable[[Node], _Owner], labels: Mapping[str, str]
) -> Iterator[_PlannedTensor]:
    """Yield each planned tensor once, named by the first node that says whose it is.

    program: as it was emitted, with the plan in its nodes. labels: the names of modules by their
    paths in the exported program.
    """
    parameters = program.graph_signature.inputs_to_parameters
    buffers = program.graph_signature.inputs_to_buffers
    gradients = _gradients(program)
    seen: set[tuple[Any, ...]] = set()
    # A tensor is allocated by a node of its own, which knows neither module nor operator.
    for node in sorted(program.graph.nodes, key=_is_allocation):
        for spec in _specs(node):
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
                owner = owner_of(node)
                category = "temp" if owner.is_backward else "activation"
                target, what = f"{owner.module}.", f"{category} {_operator(node)}"
            module = labels.get(target.rpartition(".")[0], "")
            yield _PlannedTensor(module, what, spec.allocated_memory, *spec.lifetime)


def _is_allocation(node: Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "alloc"


def _gradients(program: ExportedProgram) -> dict[tuple[Any, ...], str]:
    outputs: Any = program.graph.output_node().args[0]
    return {
        _place(planned): spec.target
        for node, spec in zip(outputs, program.graph_signature.output_specs, strict=False)
        if spec.kind.name == "GRADIENT_TO_PARAMETER" and spec.target is not None
        for planned in _specs(node)
    }


def _place(spec: Any) -> tuple[Any, ...]:
    """Return where and when a tensor is in memory: no two tensors share that."""
    return spec.mem_id, spec.mem_offset, *spec.lifetime


def _specs(node: Node) -> list[Any]:
    leaves = tree_leaves(node.meta.get("spec"))
    return [each for each in leaves if hasattr(each, "allocated_memory")]


def _operator(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    name: str = getattr(node.target, "__name__", str(node.target)) if schema is None else ""
    return name or str(getattr(schema, "name", "")).replace("::", ".")
