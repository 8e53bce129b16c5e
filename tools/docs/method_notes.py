"""The hand-written notes of docs/methods.md: names, sources, formulas, and reasons."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["METHODS", "MethodNote"]


class MethodNote(NamedTuple):
    """A method's full name, where it was proposed, and what it trains besides the head."""

    title: str
    source: str
    trains: str


_LORA: Final = "r(n + o)"

METHODS: Final[dict[str, MethodNote]] = {
    "full": MethodNote("full fine-tuning", "", "every parameter"),
    "head": MethodNote("head only", "", "nothing"),
    "bn_head": MethodNote(
        "BN + head of the reference paper", "", "nothing; running statistics are re-estimated"
    ),
    "bitfit": MethodNote("BitFit", "arXiv 2106.10199", "every bias"),
    "norm": MethodNote(
        "normalization layers", "arXiv 2003.00152", "weight and bias of each, in place"
    ),
    "galore": MethodNote(
        "gradient low-rank projection", "arXiv 2403.03507", "every parameter, in r dimensions"
    ),
    "galore-cloned": MethodNote(
        "the same, keeping only the vectors it uses", "arXiv 2403.03507", "as `galore`"
    ),
    "lora": MethodNote("low-rank adaptation, W + BA", "arXiv 2106.09685", _LORA),
    "dora": MethodNote("weight-decomposed LoRA", "arXiv 2402.09353", "r(n + o) + o"),
    "lora-grouped": MethodNote(
        "LoRA on grouped convolutions, as peft has it since 0.16: A sees all g groups",
        "arXiv 2106.09685",
        "r(g n + o / g)",
    ),
    "dora-grouped": MethodNote("DoRA on the same layers", "arXiv 2402.09353", "r(g n + o / g) + o"),
    "rslora": MethodNote("rank-stabilized LoRA, scaled by a / sqrt(r)", "arXiv 2312.03732", _LORA),
    "loraplus": MethodNote("LoRA+, B at 4 times the rate of A", "arXiv 2402.12354", _LORA),
    "lorafa": MethodNote("LoRA-FA, A frozen at its draw", "arXiv 2308.03303", "r o"),
    "pissa": MethodNote(
        "PiSSA, from the largest singular values of W", "arXiv 2404.02948", "min(r, o, n) (n + o)"
    ),
    "olora": MethodNote("OLoRA, from W = QR", "arXiv 2406.01775", "min(r, o, n) (n + o)"),
    "adalora": MethodNote(
        "AdaLoRA, P diag(E) Q, pruned from R = r + ceil(r / 2)",
        "arXiv 2303.10512",
        "R(n + o + 1)",
    ),
    "loha": MethodNote(
        "low-rank Hadamard product, W + (AB) * (CD)", "arXiv 2108.06098", "2 r(n + o)"
    ),
    "loha-tucker": MethodNote(
        "the same, each factor (out, in, kernel) by Tucker's decomposition",
        "arXiv 2108.06098",
        "2 r(i + o + r k), 2 r(n + o) if k = 1",
    ),
    "lokr": MethodNote(
        "low-rank Kronecker product, o = o1 o2, i = i1 i2",
        "arXiv 2309.14859",
        "o1 i1 + o2 i2 k; o1 i1 + r(o2 + i2 k) if 2r < max(o2, i2)",
    ),
    "lokr-tucker": MethodNote(
        "the same, the second factor by Tucker's decomposition",
        "arXiv 2309.14859",
        "as `lokr`; o1 i1 + r(o2 + i2 + r k) if it has low rank and k > 1",
    ),
    "hira": MethodNote("HiRA, W + W * (BA)", "OpenReview TwJrTz9cRS", _LORA),
    "hra": MethodNote("Householder reflections, W (I - 2uu') ...", "arXiv 2405.17484", "r n"),
    "oft": MethodNote("orthogonal blocks of 4 on the inputs", "arXiv 2306.07280", "1.5 n"),
    "boft": MethodNote("butterfly OFT with one factor, and a scale", "arXiv 2311.06243", "4 n + o"),
    "ia3": MethodNote("IA3, a factor for each output", "arXiv 2205.05638", "o"),
    "ln_tuning": MethodNote(
        "normalization layers, in copies", "arXiv 2312.11420", "weight and bias of each"
    ),
}
"""By name, without those on bfloat16, which are the same."""
