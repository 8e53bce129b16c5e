"""Find the module that an operator of a joint graph works for.

`torch.export` names the module of each node of a forward pass. `_export_forward_backward` traces
that pass with its backward pass twice, and loses the names in the second trace. Each node of the
second trace keeps, as the last line of its stack trace, the statement of the first trace that made
it; and in the first trace torch copies the annotations of forward nodes to their backward nodes. So
the names are annotated before, and read from the first trace where torch does this.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from torch.fx import Graph, GraphModule, Node

_KEY: Final = "peft_regress_module"
_ASSIGNED: Final = re.compile(r"(\w+) = ")


class Owner(NamedTuple):
    """What an operator works for."""

    module: str
    """A path of the exported module; '' is the module itself, or unknown."""
    is_backward: bool


NOBODY: Final = Owner("", is_backward=False)


class Owners:
    """The owner of each node of an exported program."""

    def __init__(self, joint: Mapping[str, Owner] | None = None) -> None:
        """Take the owners of a joint graph by the names of its first trace, if it is one."""
        self._joint = joint

    def owner(self, node: Node) -> Owner:
        """Return the owner of a node of the exported program, or of what is made of it."""
        if self._joint is None:
            return Owner(_innermost(node), is_backward=False)
        return self._joint.get(_name_in_first_trace(node), NOBODY)


def annotate(graph: Graph) -> None:
    """Write the module of each node of a forward pass where torch keeps it."""
    for node in graph.nodes:
        if node.op == "call_function":
            custom = node.meta.get("custom") or {}
            node.meta["custom"] = {**custom, _KEY: _innermost(node)}


@contextlib.contextmanager
def owners_of_joint() -> Iterator[dict[str, Owner]]:
    """Collect the owners of the joint graph that is exported meanwhile, by name of its first trace.

    They are complete when the context ends. It stays empty if torch works differently: then every
    byte is counted and no module named.
    """
    from torch._functorch._aot_autograd import graph_capture as capture

    graph_capture: Any = capture  # a private module, which exports nothing
    found: dict[str, Owner] = {}
    copy = getattr(graph_capture, "copy_fwd_metadata_to_bw_nodes", None)
    if copy is None:
        yield found
        return

    def copy_and_collect(graph_module: GraphModule) -> None:
        copy(graph_module)
        _collect(graph_module.graph, found)

    graph_capture.copy_fwd_metadata_to_bw_nodes = copy_and_collect
    try:
        yield found
    finally:
        graph_capture.copy_fwd_metadata_to_bw_nodes = copy


def _collect(graph: Graph, found: dict[str, Owner]) -> None:
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        module = (node.meta.get("custom") or {}).get(_KEY)
        if module is None:
            # A sum of gradients that autograd makes between two modules.
            before = (found.get(each.name) for each in node.all_input_nodes)
            module = next((each.module for each in before if each is not None), "")
        is_backward = node.meta.get("partitioner_tag") == "is_backward"
        found[node.name] = Owner(module, is_backward=is_backward)


def _innermost(node: Node) -> str:
    """Return the path of the innermost module that made a node; '' without one."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths else ""


def _name_in_first_trace(node: Node) -> str:
    lines = (node.meta.get("stack_trace") or "").strip().splitlines()
    match = _ASSIGNED.match(lines[-1].strip()) if lines else None
    return match[1] if match else ""
