"""The matrix `language`: each adapter type of peft, each setting of its LoRA, its optimizers.

All adapt one decoder from plays in modern spelling to the spelling of the First Folio; some adapt
one with experts, an encoder, and an encoder with a decoder, too. The rates let each method learn,
if it can in so few steps; they rank no methods. No torch at import.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.language import networks, plays
from peft_regress import Bound, FineTune, NamedConfig
from peft_regress.catalogue.built_in import cosine_to_zero

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

STEPS: Final = 24
BATCH: Final = 16
LINEAR: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PROMPT: Final = {"num_virtual_tokens": networks.PROMPT}
_TOKENS: Final = list(map(plays.CHARACTERS.index, "uvijUVIJ"))
"""The letters that the First Folio uses otherwise."""


def _of(config: str, **settings: Any) -> NamedConfig:
    return NamedConfig(config, {"task_type": "CAUSAL_LM", **settings})


def _linear(config: str, **settings: Any) -> NamedConfig:
    return _of(config, **{"target_modules": list(LINEAR), **settings})


def _lora(**settings: Any) -> NamedConfig:
    return _linear("LoraConfig", **{"r": 4, "lora_alpha": 4, **settings})


def _part(config: str, **settings: Any) -> NamedConfig:
    return NamedConfig(f"tuners.lora.config.{config}", settings)


TYPES: Final[dict[str, tuple[Any, float]]] = {
    "full": ("full", 1e-3),
    "lora-r4": (_lora(), 1e-2),
    "adalora-r4": (
        _linear(
            "AdaLoraConfig", init_r=6, target_r=4, total_step=STEPS, tinit=4, tfinal=8, deltaT=2
        ),
        3e-2,
    ),
    "adamss-r4": (_linear("AdamssConfig", r=4), 3e-2),
    "adaption_prompt": (_of("AdaptionPromptConfig", adapter_len=8, adapter_layers=2), 1e-1),
    "beft": (_of("BeftConfig", target_modules=["v_proj"]), 1e-2),
    "boft": (_linear("BOFTConfig", boft_block_size=4), 1e-2),
    "c3a": (_linear("C3AConfig", block_size=32), 1e-1),
    "cartridge": (_of("CartridgeConfig", **_PROMPT), 1e-1),
    "cpt": (
        _of(
            "CPTConfig",
            cpt_token_ids=[1, 2, 3, 4],
            cpt_mask=[1, 1, 1, 1],
            cpt_tokens_type_mask=[1, 2, 3, 4],
        ),
        1e-2,
    ),
    "deft-r4": (_linear("DeftConfig", r=4), 1e-2),
    "delora-r4": (_linear("DeloraConfig", r=4, delora_lambda=1), 1e-2),
    "fourierft": (_linear("FourierFTConfig", n_frequency=100, scaling=1.0), 1e-1),
    "frod": (_linear("FrodConfig"), 1e-2),
    "glora-r4": (_linear("GloraConfig", r=4), 1e-2),
    "gralora-r4": (_linear("GraloraConfig", r=4, gralora_k=2), 3e-3),
    "hira-r4": (_linear("HiraConfig", r=4), 3e-2),
    "hra-r4": (_linear("HRAConfig", r=4), 1e-2),
    "ia3": (
        _of(
            "IA3Config",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
        3e-2,
    ),
    "lily-r4": (_linear("LilyConfig", r=4), 1e-2),
    "ln_tuning": (
        _of(
            "LNTuningConfig",
            target_modules=["input_layernorm", "post_attention_layernorm", "norm"],
        ),
        3e-2,
    ),
    "loha-r4": (_linear("LoHaConfig", r=4, alpha=4), 3e-2),
    "lokr-r4": (_linear("LoKrConfig", r=4, alpha=8), 1e-2),
    "miss-r4": (_linear("MissConfig", r=4), 3e-3),
    "multitask_prompt": (_of("MultitaskPromptTuningConfig", num_tasks=1, **_PROMPT), 1e-2),
    "oft": (_linear("OFTConfig", r=0, oft_block_size=4), 1e-2),
    "osf": (_linear("OSFConfig", effective_rank=16), 3e-3),
    "p_tuning": (_of("PromptEncoderConfig", encoder_hidden_size=32, **_PROMPT), 1e-1),
    "peanut-r4": (_linear("PeanutConfig", r=4), 1e-2),
    "poly-r4": (_linear("PolyConfig", r=4), 3e-2),
    "prefix": (_of("PrefixTuningConfig", **_PROMPT), 1e-1),
    "prompt": (_of("PromptTuningConfig", **_PROMPT), 1e-1),
    "psoft-r4": (_linear("PsoftConfig", r=4), 1e-2),
    "pvera-r16": (_linear("PveraConfig", r=16), 1e-1),
    "randlora-r4": (_linear("RandLoraConfig", r=4), 1e-3),
    "road": (_linear("RoadConfig", group_size=32), 3e-2),
    "shadow": (_of("ShadowConfig", shadow_dropout=0.0), 3e-2),
    "shira-r4": (_linear("ShiraConfig", r=4), 1e-2),
    "supertuning": (_linear("SupertuningConfig"), 3e-2),
    "tinylora-r4": (_linear("TinyLoraConfig", r=4), 3e-3),
    "trainable_tokens": (_of("TrainableTokensConfig", token_indices=_TOKENS), 3e-2),
    "unilora-r4": (_linear("UniLoraConfig", r=4), 1e-1),
    "vblora-r4": (
        _linear("VBLoRAConfig", r=4, num_vectors=16, vector_length=32, topk=2),
        3e-2,
    ),
    "vera-r16": (_linear("VeraConfig", r=16), 1e-1),
    "waveft": (_linear("WaveFTConfig", n_frequency=100), 1e-3),
}
"""The adapter, and the peak of the learning rate, of a method by its name."""

LORA: Final[dict[str, tuple[Any, float]]] = {
    "lora-alora-r4": (_lora(alora_invocation_tokens=[plays.CHARACTERS.index("\n")]), 1e-2),
    "lora-bdlora-r4": (
        _lora(
            use_bdlora=_part(
                "BdLoraConfig",
                target_modules_bd_a=["o_proj", "down_proj"],
                target_modules_bd_b=["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
                nblocks=2,
            )
        ),
        1e-2,
    ),
    "lora-bias-r4": (_lora(lora_bias=True), 1e-2),
    "lora-dora-r4": (_lora(use_dora=True), 1e-2),
    "lora-dropout-r4": (_lora(lora_dropout=0.1), 1e-2),
    "lora-embedding-r4": (_lora(target_modules=[*LINEAR, "embed_tokens"]), 1e-2),
    "lora-kasa-r4": (_lora(kasa_config=_part("KasaConfig")), 1e-2),
    "lora-layers-r4": (_lora(layers_to_transform=[1]), 3e-2),
    "lora-mica-r4": (_lora(init_lora_weights="mica"), 3e-2),
    "lora-monteclora-r4": (_lora(monteclora_config=_part("MontecloraConfig")), 1e-2),
    "lora-olora-r4": (_lora(init_lora_weights="olora"), 3e-3),
    "lora-orthogonal-r4": (_lora(init_lora_weights="orthogonal"), 1e-2),
    "lora-parameters-r4": (
        _of("LoraConfig", r=4, lora_alpha=4, target_parameters=["mlp.gate_proj.weight"]),
        1e-2,
    ),
    "lora-patterns-r4": (_lora(rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 8}), 1e-2),
    "lora-pissa-r4": (_lora(init_lora_weights="pissa"), 3e-3),
    "lora-qalora-r4": (_lora(use_qalora=True, qalora_group_size=16), 1e-2),
    "lora-replication-r4": (_lora(layer_replication=[(0, 2), (1, 3)]), 1e-2),
    "lora-rslora-r4": (_lora(use_rslora=True), 1e-2),
    "lora-saved-r4": (_lora(modules_to_save=["norm"]), 1e-2),
    "lora-tied-r4": (
        _lora(target_modules=[*LINEAR, "embed_tokens"], ensure_weight_tying=True),
        1e-2,
    ),
    "lora-tokens-r4": (_lora(trainable_token_indices=_TOKENS), 1e-2),
    "lora-velora-r4": (_lora(velora_config=_part("VeloraConfig", num_groups=16)), 1e-2),
}
"""The same of the settings of LoRA."""


_OF_BERT: Final = {
    "task_type": "SEQ_CLS",
    "target_modules": ["query", "key", "value", "intermediate.dense", "output.dense"],
}
BERT: Final[dict[str, tuple[Any, float]]] = {
    "full": ("full", 1e-3),
    "lora-r4": (_lora(**_OF_BERT), 3e-3),
    "lora-biases-r4": (_lora(**_OF_BERT, bias="all"), 3e-3),
    "ia3": (_of("IA3Config", **_OF_BERT, feedforward_modules=["output.dense"]), 3e-2),
    "ln_tuning": (
        _linear("LNTuningConfig", task_type="SEQ_CLS", target_modules=["LayerNorm"]),
        1e-2,
    ),
    "prompt": (_of("PromptTuningConfig", task_type="SEQ_CLS", **_PROMPT), 1e-2),
}
"""The same of the encoder that tells spellings."""

_OF_T5: Final = {
    "task_type": "SEQ_2_SEQ_LM",
    "target_modules": ["q", "k", "v", "o", "wi", "wo"],
}
T5: Final[dict[str, tuple[Any, float]]] = {
    "full": ("full", 3e-3),
    "lora-r4": (_lora(**_OF_T5), 3e-2),
    "ia3": (_of("IA3Config", **_OF_T5, feedforward_modules=["wo"]), 3e-2),
    "prefix": (_of("PrefixTuningConfig", task_type="SEQ_2_SEQ_LM", **_PROMPT), 1e-1),
    "prompt": (_of("PromptTuningConfig", task_type="SEQ_2_SEQ_LM", **_PROMPT), 1e-1),
    "p_tuning": (
        _of("PromptEncoderConfig", task_type="SEQ_2_SEQ_LM", encoder_hidden_size=32, **_PROMPT),
        3e-2,
    ),
}
"""The same of the encoder and decoder that continue a passage."""

MIXTRAL: Final[dict[str, tuple[Any, float]]] = {
    "full": ("full", 1e-3),
    "lora-r4": (_lora(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), 3e-2),
    "lora-experts-r4": (
        _of(
            "LoraConfig",
            r=4,
            lora_alpha=4,
            target_modules=["q_proj", "v_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
        1e-2,
    ),
}
"""The same of the decoder with experts."""


def _adamw(model: nn.Module, *, rate: float) -> Optimizer:
    import torch  # listing cases must not cost the import

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=rate, eps=1e-6, weight_decay=0.0, foreach=False)


def _of_peft(model: nn.Module, *, name: str, **settings: Any) -> Optimizer:
    import peft.optimizers
    import torch

    if name != "create_lorafa_optimizer":
        settings |= {"optimizer_cls": torch.optim.AdamW, "eps": 1e-6, "foreach": False}
    return getattr(peft.optimizers, name)(model, **settings)


def _started(model: nn.Module, *, name: str) -> nn.Module:
    import torch

    from benchmarks.language import starts

    # A start is no part of what is saved, so loading must draw it again.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(starts, name)(model, targets=list(LINEAR))


_BOUNDS: Final = {
    "llama": Bound(0.05, "no training is 0.4 bits below full fine-tuning"),
    "mixtral": Bound(0.05, "no training is 0.3 bits below full fine-tuning"),
    "t5": Bound(0.02, "no training is 0.15 bits below full fine-tuning"),
    "bert": Bound(0.1, "no training is 1.4 bits below full fine-tuning"),
}


def _case(
    method: str, adapter: Any, rate: float | None = None, *, on: str = "folio/llama", **more: Any
) -> FineTune:
    task, network = on.split("/")
    usual: dict[str, Any] = {
        "model": getattr(networks, network),
        "data": getattr(plays, task),
        "optimizer": None if rate is None else partial(_adamw, rate=rate),
        "schedule": cosine_to_zero(STEPS),
        "score": networks.bits_saved if task == "folio" else networks.bits_of_labels_saved,
        "mode": "eval",
        "steps": STEPS,
        "batch": BATCH,
        "matrix": "language",
        "bounds": {"score": _BOUNDS[network]},
    }
    return FineTune(f"{task}/{method}/{network}", adapter=adapter, **{**usual, **more})


_OTHERWISE: Final[dict[str, dict[str, Any]]] = {
    "lora-dropout-r4": {"mode": "train"},
    "lora-monteclora-r4": {"mode": "train"},
    "multitask_prompt": {"data": plays.folio_of_one_task},
    "poly-r4": {"data": plays.folio_of_one_task},
}
_OPTIMIZERS: Final[dict[str, Callable[[nn.Module], Optimizer]]] = {
    "loraplus-r4": partial(
        _of_peft, name="create_loraplus_optimizer", lr=5e-3, loraplus_lr_ratio=4
    ),
    "lorafa-r4": partial(_of_peft, name="create_lorafa_optimizer", lr=1e-2, r=4, lora_alpha=4),
    "riemannian-r4": partial(_of_peft, name="create_riemannian_optimizer", lr=1e-2),
}

CASES: Final = (
    *(
        _case(method, adapter, rate, **_OTHERWISE.get(method, {}))
        for method, (adapter, rate) in {**TYPES, **LORA}.items()
    ),
    *(
        _case(f"{name}-r4", partial(_started, name=name), rate)
        for name, rate in (("corda", 1e-3), ("eva", 1e-2), ("lora_ga", 3e-3), ("xlora", 1e-2))
    ),
    *(_case(method, _lora(), optimizer=make) for method, make in _OPTIMIZERS.items()),
    _case("galore-r4", "galore-r4"),
    *(
        _case(method, adapter, rate, on=on)
        for on, methods in (
            ("lower_case/bert", BERT),
            ("folio_passages/t5", T5),
            ("folio/mixtral", MIXTRAL),
        )
        for method, (adapter, rate) in methods.items()
    ),
    _case("head", "head", 1e-2, on="lower_case/bert", also_train=["classifier"]),
)
