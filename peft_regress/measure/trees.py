"""The tensors in what a batch is or a model returns: tuples, mappings, dataclasses, nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def named_tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor with its path: `0`, `labels`, `boxes.1`; an empty one for a tree of one.

    What is no tensor and no container is passed over.
    """
    if isinstance(tree, Tensor):
        yield path, tree
        return
    if isinstance(tree, Mapping):
        parts = tree.items()
    elif isinstance(tree, tuple | list):
        names = getattr(tree, "_fields", range(len(tree)))
        parts = zip(names, tree, strict=True)  # type: ignore[assignment]
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        parts = vars(tree).items()
    else:
        return
    for name, part in parts:
        yield from named_tensors(part, f"{path}.{name}" if path else str(name))
