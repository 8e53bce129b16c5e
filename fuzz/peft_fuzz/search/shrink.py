"""Make a failing example smaller by editing its JSON: what is left out has its default.

Hypothesis makes smaller what was drawn, by drawing again; it cannot leave out what each drawn
example has, such as a layer's stride. These edits can, and each takes one life.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, Final

import msgspec

from peft_fuzz.example import Example

Edit = Callable[[Any], None]

_USUAL_KERNEL: Final = 3
_SIMPLER_KIND: Final = {"conv3d": "conv2d", "conv2d": "conv1d", "transposed_linear": "linear"}
_NEEDED: Final = frozenset({"kernel", "sizes", "target_modules"})
"""Keys without which an example means something else."""
_SPATIAL: Final = ("kernel", "stride", "padding", "dilation")
_SMALL: Final = (2, 4)
"""Sizes to try, the simplest first."""


def shrink(example: Example, still_fails: Callable[[Example], bool]) -> Example:
    """Return the smallest example that edits lead to, each of which keeps the failure.

    `still_fails` runs an example, at most once for each edit of each round; an edit that leads to
    no valid example is left out. It ends when a whole round of edits changes nothing.
    """
    best, is_smaller = example, True
    while is_smaller:
        is_smaller = False
        for edit in _edits(_as_json(best)):
            edited = _edited(best, edit)
            if edited is not None and edited != best and still_fails(edited):
                best, is_smaller = edited, True
    return best


def _edited(example: Example, edit: Edit) -> Example | None:
    value = _as_json(example)
    try:
        edit(value)
        return msgspec.convert(value, Example)
    except (LookupError, TypeError, ValueError):
        return None


def _as_json(example: Example) -> Any:
    """Return a new value of lists and dictionaries, without tuples."""
    return msgspec.json.decode(msgspec.json.encode(example))


def _edits(value: Any) -> Iterator[Edit]:
    """Yield the edits of an example: those that leave out most come first."""
    acts = range(len(value.get("acts", ())))[::-1]
    layers = range(len(value["network"]["layers"]))
    adapters = range(len(value["adapters"]))
    for part in (slice(at, None) for at in acts):
        yield partial(_delete, path=("acts", part))
    for part in (slice(at, at + number) for number in (1, 2) for at in acts):
        yield partial(_delete, path=("acts", part))
    for index in adapters[:0:-1]:
        yield partial(_drop_adapter, index=index)
    for index in layers[::-1]:
        yield partial(_drop_layer, index=index)
    for path in list(_paths(value, ())):
        yield partial(_delete, path=path)  # then a field has its default
    for index in adapters:
        yield partial(_list_layers, index=index)
    for index in layers:
        for edit in (_simpler_kind, _linear, _usual_kernel, _square):
            yield partial(edit, index=index)
    yield from _names(value)
    yield from _numbers(value)


def _drop_adapter(value: Any, index: int) -> None:
    name = value["adapters"].pop(index)["name"]
    value["acts"] = [act for act in value.get("acts", ()) if name not in _named(act)]


def _named(act: Any) -> list[str]:
    return [act.get("adapter", ""), *(act.get("adapters") or ())]


def _drop_layer(value: Any, index: int) -> None:
    """Leave out a layer; the one after it takes what the one before returns."""
    layers = value["network"]["layers"]
    name = layers.pop(index)["name"]
    if not layers:
        raise IndexError
    if 0 < index < len(layers):
        layers[index]["inputs"] = layers[index - 1]["outputs"]
    for adapter in value["adapters"]:
        settings = adapter["settings"]
        for key, listed in list(settings.items()):
            if isinstance(listed, list) and name in listed:
                listed.remove(name)
                if not listed and key != "target_modules":
                    del settings[key]


def _list_layers(value: Any, index: int) -> None:
    """Name layers instead of matching them by a pattern."""
    names = [layer["name"] for layer in value["network"]["layers"]]
    settings = value["adapters"][index]["settings"]
    for key in ("target_modules", "modules_to_save"):
        if isinstance(settings.get(key), str):
            settings[key] = [name for name in names if re.fullmatch(settings[key], name)]


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in _NEEDED:
                yield (*path, key)
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*path, index))


def _delete(value: Any, path: tuple[Any, ...]) -> None:
    for key in path[:-1]:
        value = value[key]
    del value[path[-1]]


def _set(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def _simpler_kind(value: Any, index: int) -> None:
    network = value["network"]
    layer = network["layers"][index]
    layer["kind"] = _SIMPLER_KIND[layer["kind"]]
    for key in _SPATIAL:
        if isinstance(layer.get(key), list):
            layer[key] = layer[key][:-1]
    if layer["kind"].startswith("conv"):
        network["sizes"] = network["sizes"][:-1]


def _linear(value: Any, index: int) -> None:
    network = value["network"]
    layer = network["layers"][index]
    if layer["kind"] != "conv1d" or len(network["layers"]) > 1:
        raise KeyError
    for key in (*_SPATIAL, "groups", "padding_mode"):
        layer.pop(key, None)
    layer["kind"] = "linear"
    network.pop("sizes", None)


def _usual_kernel(value: Any, index: int) -> None:
    layer = value["network"]["layers"][index]
    layer["kernel"] = [_USUAL_KERNEL] * len(layer["kernel"])


def _square(value: Any, index: int) -> None:
    layer = value["network"]["layers"][index]
    layer["inputs"] = layer["outputs"] = max(layer["inputs"], layer["outputs"])


def _names(value: Any) -> Iterator[Edit]:
    """Yield edits that give layers and adapters plain names, everywhere."""
    taken = {one["name"] for one in value["network"]["layers"]}
    plain = (name for number in count() if (name := f"layer{number}") not in taken)
    for layer in value["network"]["layers"]:
        if not (layer["name"].startswith("layer") and layer["name"][5:].isdigit()):
            new = next(plain)
            yield partial(_rename, old=layer["name"], new=new)
    names = ("default", "other", "third")
    for adapter, new in zip(value["adapters"], names, strict=False):
        if adapter["name"] not in names:
            yield partial(_rename, old=adapter["name"], new=new)


def _rename(value: Any, old: str, new: str) -> None:
    """Replace a string wherever it is a value or a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        if isinstance(inner, dict | list):
            _rename(inner, old, new)
        elif inner == old:
            value[key] = new
        if key == old and isinstance(value, dict):
            value[new] = value.pop(old)


def _numbers(value: Any) -> Iterator[Edit]:
    """Yield edits that make sizes smaller: all features at once, then each number."""
    features = {
        size for one in value["network"]["layers"] for size in (one["inputs"], one["outputs"])
    }
    for old in sorted(features, reverse=True):
        for new in (one for one in _SMALL if one < old):
            yield partial(_resize, old=old, new=new)
    network = value["network"]
    for index, size in enumerate(network.get("sizes", ())):
        for new in (one for one in (*_SMALL, 5) if one < size):
            yield partial(_set, path=("network", "sizes", index), new=new)
    for index, adapter in enumerate(value["adapters"]):
        for key, old in adapter["settings"].items():
            if isinstance(old, int) and not isinstance(old, bool):
                for new in (one for one in (1, *_SMALL) if one < old):
                    yield partial(_set, path=("adapters", index, "settings", key), new=new)


def _resize(value: Any, old: int, new: int) -> None:
    for layer in value["network"]["layers"]:
        for key in ("inputs", "outputs", "groups"):
            if layer.get(key) == old:
                layer[key] = new
