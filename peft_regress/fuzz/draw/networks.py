"""Draw networks; the simplest is one small linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import strategies as st

from peft_regress.fuzz import example as e
from peft_regress.fuzz.networks import DIMENSIONS, build, make_input

if TYPE_CHECKING:
    from collections.abc import Collection

    from hypothesis.strategies import DrawFn

NAMES: Final = (
    "lin0",
    "lin1",
    "head",
    "head2",
    "net.lin0",
    "net.block.lin0",
    "default",
    "weight_in",
    "foo",
    "foobar",
)
"""Some are an adapter's name, hold `weight`, begin or end like another."""
WIDTHS: Final = (8, 4, 6, 12, 16)


@st.composite
def networks(draw: DrawFn, kinds: Collection[e.Kind]) -> e.Network:
    """Draw a network of one to three layers, one of them of the given kinds at least."""
    first = draw(st.sampled_from(sorted(kinds, key=_simplicity)))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    names = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    layers: list[e.Layer] = []
    width = draw(st.sampled_from(WIDTHS))
    sizes: tuple[int, ...] = ()
    for position, name in enumerate(names):
        kind = first if position == 0 else draw(st.sampled_from(_followers(first, layers)))
        if kind in DIMENSIONS:
            layer, sizes = draw(_convolution(name, kind, width, sizes if layers else None))
            if not layers:
                start = sizes
                sizes = _output_sizes(layer, sizes)
        else:
            layer = draw(_flat(name, kind, width))
            start = start if layers else draw(_tokens(kind))
        layers.append(layer)
        width = layer.outputs
    network = e.Network(
        layers=tuple(layers),
        sizes=start,
        dtype=draw(st.sampled_from(("float32", "float32", "float32", "bfloat16", "float16"))),
        channels_last=first == "conv2d" and draw(st.integers(0, 5)) == 5,  # noqa: PLR2004
        seed=draw(st.integers(0, 3)),
    )
    return network


def runs(network: e.Network) -> bool:
    """Return whether the network itself runs."""
    try:
        build(network)(make_input(network))
    except (RuntimeError, ValueError):
        return False
    return True


def _simplicity(kind: e.Kind) -> int:
    order = ("linear", "conv2d", "conv1d", "conv3d", "embedding", "transposed_linear", "attention")
    return order.index(kind)


def _followers(first: e.Kind, layers: list[e.Layer]) -> tuple[e.Kind, ...]:
    if first in DIMENSIONS and all(layer.kind == first for layer in layers):
        return ("linear", first)
    if first in {"embedding", "attention"}:
        return ("linear", "attention")
    return ("linear", "transposed_linear")


@st.composite
def _flat(draw: DrawFn, name: str, kind: e.Kind, width: int) -> e.Layer:
    if kind == "attention":
        return e.Layer(
            name=name,
            kind=kind,
            inputs=width,
            outputs=width,
            heads=draw(st.sampled_from((1, 2))),
            bias=draw(st.sampled_from((True, False))),
            by_keyword=draw(st.booleans()),
        )
    outputs = draw(st.sampled_from(WIDTHS))
    if kind in {"embedding", "transposed_linear"}:
        return e.Layer(name=name, kind=kind, inputs=width, outputs=outputs)
    bias = draw(st.sampled_from((True, True, False)))
    return e.Layer(name=name, kind=kind, inputs=width, outputs=outputs, bias=bias)


@st.composite
def _tokens(draw: DrawFn, kind: e.Kind) -> tuple[int, ...]:
    if kind in {"attention", "embedding"}:
        return (draw(st.integers(1, 4)),)
    return draw(st.sampled_from(((), (), (3,))))


@st.composite
def _convolution(
    draw: DrawFn, name: str, kind: e.Kind, width: int, sizes: tuple[int, ...] | None
) -> tuple[e.Layer, tuple[int, ...]]:
    """Draw a convolution and the sizes of its input, so that it runs."""
    dimensions = DIMENSIONS[kind]
    every = range(dimensions)
    plain = draw(st.booleans())
    size = st.sampled_from((3, 1, 2, 5, 4) if dimensions < 3 else (3, 1, 2))  # noqa: PLR2004
    kernel = (draw(size),) * dimensions if plain else tuple(draw(size) for _ in every)
    one_or_two = st.sampled_from((1, 1, 2))
    stride = (1,) * dimensions if plain else tuple(draw(one_or_two) for _ in every)
    dilation = (1,) * dimensions if plain else (draw(one_or_two),) * dimensions
    mode = (
        "zeros"
        if plain
        else draw(st.sampled_from(("zeros", "zeros", "reflect", "circular", "replicate")))
    )
    inside = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if not plain and stride == (1,) * dimensions and draw(st.booleans()):
        padding: object = "same"
        before = tuple(i // 2 for i in inside)
    elif plain:
        padding = before = tuple(k // 2 for k in kernel)
    else:
        padding = before = tuple(draw(st.sampled_from((0, 1))) for _ in every)
    if sizes is None:
        # Smaller than the kernel too, where padding makes up for it; reflection and circular
        # padding need more positions than they add.
        least = [
            max(1, i - 2 * b, b + 1 if mode != "zeros" else 1)
            for i, b in zip(inside, before, strict=True)
        ]
        sizes = tuple(draw(st.integers(low, low + 4)) for low in least)
    groups = draw(st.sampled_from([1, 1, *(g for g in (2, width) if width % g == 0)]))
    outputs = (
        groups * draw(st.sampled_from((1, 2, 3))) if groups > 1 else draw(st.sampled_from(WIDTHS))
    )
    layer = e.Layer(
        name=name,
        kind=kind,
        inputs=width,
        outputs=outputs,
        kernel=kernel,
        stride=() if stride == (1,) * dimensions else stride,
        padding=() if padding == (0,) * dimensions else padding,  # type: ignore[arg-type]
        dilation=() if dilation == (1,) * dimensions else dilation,
        groups=groups,
        padding_mode=mode,  # type: ignore[arg-type]
        bias=draw(st.sampled_from((True, True, False))),
    )
    return layer, sizes


def _output_sizes(layer: e.Layer, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes that the next layer gets; only followers of one position need them."""
    return sizes
