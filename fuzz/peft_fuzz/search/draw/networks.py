"""Draw networks; the simplest is one small linear layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec.structs import replace

from peft_fuzz.networks.network import DIMENSIONS, DType, Kind, Layer, Network

ORDER: Final[tuple[Kind, ...]] = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "embedding",
    "transposed_linear",
    "attention",
)
"""The simplest first, to which examples shrink."""
NAME_LISTS: Final = st.lists(
    st.sampled_from(
        ("lin0", "lin1", "head", "net.lin0", "blocks.0.lin", "blocks.1.lin", "default")
    ),
    min_size=1,
    max_size=3,
    unique=True,
)
"""One is an adapter's name."""
WIDTHS: Final = st.sampled_from((8, 4, 6, 12, 16))
BIAS: Final = st.sampled_from((True, True, False))
DTYPES: Final[SearchStrategy[DType]] = st.sampled_from(
    ("float32", "float32", "float32", "bfloat16", "float16")
)
SEEDS: Final = st.integers(0, 3)
COIN: Final = st.booleans()
ONE_IN_THREE: Final = st.integers(0, 2).map(lambda number: number == 2)  # noqa: PLR2004
ONE_IN_SIX: Final = st.integers(0, 5).map(lambda number: number == 5)  # noqa: PLR2004
TOKENS: Final = st.integers(1, 4).map(lambda tokens: (tokens,))
FEATURES: Final = st.sampled_from(((), (), (3,)))
KERNELS: Final = st.sampled_from((3, 1, 2, 5, 4))
CUBES: Final = st.sampled_from((3, 1, 2))
STEPS: Final = st.sampled_from((1, 1, 2))
MARGINS: Final = st.sampled_from((0, 1))
MULTIPLES: Final = st.sampled_from((1, 2, 3))
MODES: Final = st.sampled_from(("zeros", "zeros", "reflect", "circular", "replicate"))


@st.composite
def networks(draw: DrawFn, kinds: Collection[Kind]) -> Network:
    """Draw a network of one to three layers, the first of one of the given kinds."""
    first = draw(_one_of(tuple(kind for kind in ORDER if kind in kinds)))
    layers: list[Layer] = []
    width, sizes = draw(WIDTHS), draw(_sizes(first))
    for name in draw(NAME_LISTS):
        kind = draw(_one_of(_followers(layers))) if layers else first
        if kind not in DIMENSIONS:
            layer = draw(_flat(name, kind, width))
        else:
            layer = draw(_convolution(name, kind, width, following=bool(layers)))
            if not layers:
                sizes = tuple(draw(_map_sizes(layer)))
        layers.append(layer)
        width = layer.outputs
    last = layers[-1]
    if last.kind in {"linear", "transposed_linear"} and draw(ONE_IN_SIX):
        # The same module once more under another name.
        layers[-1] = last = replace(last, outputs=last.inputs)
        layers.append(replace(last, name="again", same_as=last.name))
    return Network(
        layers=tuple(layers),
        sizes=sizes,
        dtype=draw(DTYPES),
        channels_last=first == "conv2d" and draw(ONE_IN_THREE),
        seed=draw(SEEDS),
    )


def _one_of(values: tuple[Any, ...]) -> SearchStrategy[Any]:
    return st.sampled_from(values)


def _followers(layers: list[Layer]) -> tuple[Kind, ...]:
    first, last = layers[0].kind, layers[-1].kind
    if last in DIMENSIONS:
        return ("linear", last)
    if first in {"attention", "embedding"}:
        return ("linear", "attention")
    return ("linear", "transposed_linear")


def _sizes(first: Kind) -> SearchStrategy[tuple[int, ...]]:
    return TOKENS if first in {"attention", "embedding"} else FEATURES


@st.composite
def _flat(draw: DrawFn, name: str, kind: Kind, width: int) -> Layer:
    if kind == "attention":
        return Layer(
            name=name,
            kind=kind,
            inputs=width,
            outputs=width,
            heads=2 if draw(COIN) else 1,
            bias=draw(BIAS),
        )
    outputs = draw(WIDTHS)
    if kind in {"embedding", "transposed_linear"}:
        return Layer(name=name, kind=kind, inputs=width, outputs=outputs)
    return Layer(name=name, kind=kind, inputs=width, outputs=outputs, bias=draw(BIAS))


@st.composite
def _convolution(draw: DrawFn, name: str, kind: Kind, width: int, *, following: bool) -> Layer:
    """Draw a convolution; one that follows another keeps the map's size, or nearly so."""
    dimensions = DIMENSIONS[kind]
    every, ones = range(dimensions), (1,) * dimensions
    size = CUBES if dimensions > 2 else KERNELS  # noqa: PLR2004
    plain = following or draw(COIN)
    kernel = (draw(size),) * dimensions if plain else tuple(draw(size) for _ in every)
    stride, dilation, mode = ones, ones, "zeros"
    padding: Any = tuple(each // 2 for each in kernel)
    if not plain:
        dilation = (draw(STEPS),) * dimensions
        mode = draw(MODES)
        if draw(COIN):
            padding = "same"
        else:
            stride = tuple(draw(STEPS) for _ in every)
            padding = tuple(draw(MARGINS) for _ in every)
    groups = draw(_one_of((1, 1, *(each for each in (2, width) if width % each == 0))))
    return Layer(
        name=name,
        kind=kind,
        inputs=width,
        outputs=draw(WIDTHS) if groups == 1 else groups * draw(MULTIPLES),
        kernel=kernel,
        stride=() if stride == ones else stride,
        padding=() if padding == (0,) * dimensions else padding,
        dilation=() if dilation == ones else dilation,
        groups=groups,
        padding_mode=mode,  # type: ignore[arg-type]
        bias=draw(BIAS),
    )


@st.composite
def _map_sizes(draw: DrawFn, layer: Layer) -> list[int]:
    """Draw the sizes of a convolution's input: smaller than the kernel if padding makes up for it.

    Reflection and wrapping around need more positions than they add.
    """
    sizes = []
    for axis, kernel in enumerate(layer.kernel):
        reach = (kernel - 1) * (layer.dilation[axis] if layer.dilation else 1) + 1
        if layer.padding == "same":
            margin = reach // 2
        else:
            margin = layer.padding[axis] if layer.padding else 0
        least = max(1, reach - 2 * margin, margin + 1 if layer.padding_mode != "zeros" else 1)
        sizes.append(draw(st.integers(least, least + 4)))
    return sizes
