"""Which module an operator works for: in the forward pass, and for the same layer in the backward.

Autograd numbers the nodes of its graph in the order of their creation. The numbers at which control
passes from one module to another, noted in the forward pass, therefore tell for any node of the
backward pass which module made it. Nothing is hooked into the graph, so nothing is added to it:
module backward hooks would insert views and change what is measured.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle

__all__ = ["ModuleTrail", "module_names"]

_PEFT_PREFIX = "base_model.model"


def module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Name every module as `named_modules` does, without the prefix that peft's wrapping adds.

    A layer keeps its name over methods that way: 'layer1.0.conv1', wrapped or not. The model itself
    is '', and so are peft's wrappers around it.
    """
    names = {}
    wrapped = _is_peft_s(model)
    for name, module in model.named_modules():
        is_wrapper = wrapped and name in {"base_model", _PEFT_PREFIX}
        prefix = _PEFT_PREFIX + "." if wrapped else ""
        names[module] = "" if is_wrapper else name.removeprefix(prefix)
    return names


def _is_peft_s(model: nn.Module) -> bool:
    """Tell peft's wrapper, or a subclass of it, from a model with a submodule of that name."""
    return any(kind.__module__.partition(".")[0] == "peft" for kind in type(model).__mro__)


class ModuleTrail:
    """The modules that control passes through, and when, in autograd's numbering of nodes."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._starts: list[int] = []
        self._owners: list[str] = []
        self._handles: list[RemovableHandle] = []

    def follow(self, names: dict[nn.Module, str]) -> None:
        """Start following calls of these modules; `clear` ends it."""
        for module, name in names.items():

            def enter(_module: nn.Module, _args: object, name: str = name) -> None:
                self._stack.append(name)
                self._note(name)

            def leave(_module: nn.Module, _args: object, _output: object) -> None:
                self._stack.pop()
                self._note(self.current())

            # First in and last out, so that what other hooks compute counts for the module. Always,
            # since checkpointing leaves a module by an exception once it has computed enough.
            self._handles.append(module.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def current(self) -> str:
        """Name the module whose forward pass is running; '' outside any."""
        return self._stack[-1] if self._stack else ""

    def forget_nodes(self) -> None:
        """Drop what is known of nodes, between one step and the next."""
        self._starts.clear()
        self._owners.clear()

    def clear(self) -> None:
        """Take the hooks off the modules."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()
        self.forget_nodes()

    def owner(self, node: Any) -> str:
        """Name the module that made a node of the backward graph; '' where none did."""
        index = bisect_right(self._starts, node._sequence_nr()) - 1  # noqa: SLF001
        return self._owners[index] if index >= 0 else ""

    def _note(self, name: str) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())  # noqa: SLF001
        self._owners.append(name)
