"""The hand-written notes of docs/methods.md: names, sources, formulas, and reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

__all__ = ["METHODS", "OTHER_TYPES", "TYPE_ARGUMENTS", "VARIANTS", "MethodNote", "Variant"]


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

_LINEAR: Final = "linear layers only"
_PROMPT: Final = "a prompt before the tokens of a language model"

OTHER_TYPES: Final[dict[str, str]] = {
    **dict.fromkeys(
        (
            "ADAMSS",
            "BEFT",
            "C3A",
            "DEFT",
            "DELORA",
            "FOURIERFT",
            "FROD",
            "GLORA",
            "GRALORA",
            "LILY",
            "MISS",
            "PEANUT",
            "POLY",
            "PSOFT",
            "PVERA",
            "RANDLORA",
            "ROAD",
            "SHIRA",
            "SUPERTUNING",
            "TINYLORA",
            "UNILORA",
            "VBLORA",
            "VERA",
            "WAVEFT",
        ),
        _LINEAR,
    ),
    "ADAPTION_PROMPT": "prompts in the attention of some language models",
    "CARTRIDGE": "a trained cache of keys and values for a language model",
    "CPT": _PROMPT,
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "OSF": "two-dimensional weights only; ignores others silently",
    "PREFIX_TUNING": _PROMPT,
    "PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "SHADOW": "the decoder blocks of a transformer",
    "TRAINABLE_TOKENS": "rows of an embedding",
    "XLORA": "mixes trained LoRA adapters of a transformers model",
}
"""Why a type that peft maps is no method here."""

_TOKENS: Final = {"num_virtual_tokens": 4}
TYPE_ARGUMENTS: Final[dict[str, Mapping[str, Any]]] = {
    "ADAPTION_PROMPT": {"adapter_layers": 1, "adapter_len": 2},
    "CARTRIDGE": _TOKENS,
    "CPT": {"cpt_token_ids": [0], "cpt_mask": [1], "cpt_tokens_type_mask": [1]},
    "MULTITASK_PROMPT_TUNING": _TOKENS,
    "PREFIX_TUNING": _TOKENS,
    "PROMPT_TUNING": _TOKENS,
    "P_TUNING": _TOKENS,
    "TRAINABLE_TOKENS": {"token_indices": [0]},
}
"""Arguments that a configuration requires besides the layers."""


class Variant(NamedTuple):
    """A setting of LoRA that is no method here: its arguments, and why."""

    arguments: Callable[[ModuleType], Mapping[str, Any]]
    reason: str


def _start(name: str) -> Callable[[ModuleType], Mapping[str, Any]]:
    return lambda _config: {"init_lora_weights": name}


VARIANTS: Final[dict[str, Variant]] = {
    'init_lora_weights="gaussian"': Variant(
        _start("gaussian"),
        "another draw of A; `lora` gates the same shapes, costs and function",
    ),
    'init_lora_weights="pissa_niter_4"': Variant(
        _start("pissa_niter_4"), "`pissa` with an inexact SVD"
    ),
    'init_lora_weights="eva"': Variant(_start("eva"), "starts from activations: a pass over data"),
    'init_lora_weights="corda"': Variant(
        _start("corda"), "starts from covariances: a pass over data"
    ),
    'init_lora_weights="lora_ga"': Variant(
        _start("lora_ga"),
        "starts from gradients: a pass over data; on a convolution it silently starts as `lora`",
    ),
    'init_lora_weights="loftq"': Variant(
        lambda config: {
            "init_lora_weights": "loftq",
            "loftq_config": config.LoftQConfig(loftq_bits=4),
        },
        "quantizes the base, on CUDA; on a convolution peft omits an argument",
    ),
    'init_lora_weights="orthogonal"': Variant(_start("orthogonal"), _LINEAR),
    'init_lora_weights="mica"': Variant(_start("mica"), _LINEAR),
    "velora_config": Variant(lambda config: {"velora_config": config.VeloraConfig()}, _LINEAR),
    "kasa_config": Variant(lambda config: {"kasa_config": config.KasaConfig()}, _LINEAR),
    "monteclora_config": Variant(
        lambda config: {"monteclora_config": config.MontecloraConfig()}, _LINEAR
    ),
    "use_bdlora": Variant(
        lambda config: {"use_bdlora": config.BdLoraConfig(target_modules_bd_a=["conv"], nblocks=2)},
        _LINEAR,
    ),
    "arrow_config": Variant(
        lambda config: {"arrow_config": config.ArrowConfig()},
        "routes between trained adapters; linear layers only",
    ),
    "alora_invocation_tokens": Variant(
        lambda _config: {"alora_invocation_tokens": [1]}, "switched on by tokens"
    ),
    "use_qalora": Variant(
        lambda _config: {"use_qalora": True},
        "GPTQ-quantized linear layers only; elsewhere it silently does nothing",
    ),
    "lora_bias": Variant(
        lambda _config: {"lora_bias": True},
        "a bias besides B, for adapters taken from a tuned model; no merging if the convolution "
        "has no bias, as before every BatchNorm",
    ),
    "target_parameters": Variant(
        lambda _config: {"target_parameters": ["conv.weight"], "target_modules": []},
        "weights of two or three dimensions",
    ),
    "layer_replication": Variant(
        lambda _config: {"layer_replication": [(0, 1)]}, "the layers of some language models"
    ),
}
"""By argument of `LoraConfig`, without those of a method here."""
