"""What adapters the compatibility study makes in each release: a configuration for each variant."""

from __future__ import annotations

from typing import Any

LINEAR = ["lin0", "lin1"]
CONVOLUTIONS = ["conv0", "conv1"]

VARIANTS: dict[str, tuple[str, list[dict[str, Any]]]] = {}
"""By name: the configuration class, and settings; the first ones that a release takes are used."""


def _add(name: str, kind: str, *settings: dict[str, Any], targets: list[str] | None = None) -> None:
    chosen = LINEAR if targets is None else targets
    VARIANTS[name] = kind, [{"target_modules": chosen, **one} for one in settings or ({},)]


_LORA = {"r": 4, "lora_alpha": 8}
_add("lora", "LoraConfig", _LORA)
_add("lora, convolution", "LoraConfig", _LORA, targets=CONVOLUTIONS)
_add("lora, embedding", "LoraConfig", _LORA, targets=["emb"])
_add("lora, attention", "LoraConfig", _LORA, targets=["attn"])
_add(
    "lora, Conv1D of transformers",
    "LoraConfig",
    {**_LORA, "fan_in_fan_out": True},
    targets=["turned"],
)
_add("lora, use_rslora", "LoraConfig", {**_LORA, "use_rslora": True})
_add(
    "lora, patterns",
    "LoraConfig",
    {**_LORA, "rank_pattern": {"lin0": 2}, "alpha_pattern": {"lin1": 16}},
)
_add("lora, bias", "LoraConfig", {**_LORA, "bias": "lora_only"})
_add("lora, lora_bias", "LoraConfig", {**_LORA, "lora_bias": True})
_add("lora, modules_to_save", "LoraConfig", {**_LORA, "modules_to_save": ["head"]})
_add("lora, init pissa", "LoraConfig", {**_LORA, "init_lora_weights": "pissa"})
_add("lora, init olora", "LoraConfig", {**_LORA, "init_lora_weights": "olora"})
_add(
    "lora, target_parameters",
    "LoraConfig",
    {**_LORA, "target_parameters": ["lin0.weight"]},
    targets=[],
)
_add("dora", "LoraConfig", {**_LORA, "use_dora": True})
_add("dora, convolution", "LoraConfig", {**_LORA, "use_dora": True}, targets=CONVOLUTIONS)
_add("dora, embedding", "LoraConfig", {**_LORA, "use_dora": True}, targets=["emb"])
_ADALORA = {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1, "total_step": 10}
_add("adalora", "AdaLoraConfig", _ADALORA)
_add("loha", "LoHaConfig", {"r": 2, "alpha": 8})
_add("loha, convolution", "LoHaConfig", {"r": 2, "alpha": 8}, targets=CONVOLUTIONS)
_EFFECTIVE = {"r": 2, "alpha": 8, "use_effective_conv2d": True}
_add("loha, effective convolution", "LoHaConfig", _EFFECTIVE, targets=CONVOLUTIONS)
_add("loha, patterns", "LoHaConfig", {"r": 2, "alpha": 8, "alpha_pattern": {"lin0": 2}})
_add("lokr", "LoKrConfig", {"r": 2, "alpha": 8})
_add("lokr, convolution", "LoKrConfig", {"r": 2, "alpha": 8}, targets=CONVOLUTIONS)
_add("lokr, decompose_both", "LoKrConfig", {"r": 1, "alpha": 8, "decompose_both": True})
_add("ia3", "IA3Config", {"feedforward_modules": ["lin1"]})
_add("ia3, convolution", "IA3Config", {"feedforward_modules": []}, targets=CONVOLUTIONS)
_OFT = ({"r": 4, "oft_block_size": 0}, {"r": 4})
_add("oft", "OFTConfig", *_OFT)
_add("oft, convolution", "OFTConfig", *_OFT, targets=["conv1"])
_add("oft, block_share", "OFTConfig", *({**one, "block_share": True} for one in _OFT))
_add("boft", "BOFTConfig", {"boft_block_size": 4})
_add("boft, factor 2", "BOFTConfig", {"boft_block_size": 4, "boft_n_butterfly_factor": 2})
_add("boft, convolution", "BOFTConfig", {"boft_block_size": 4}, targets=["conv1"])
_add("hra", "HRAConfig", {"r": 4})
_add("hra, convolution", "HRAConfig", {"r": 4}, targets=["conv1"])
_add("hra, apply_GS", "HRAConfig", {"r": 4, "apply_GS": True})
_add("vera", "VeraConfig", {"r": 8})
_add("vera, save_projection=False", "VeraConfig", {"r": 8, "save_projection": False})
_add("fourierft", "FourierFTConfig", {"n_frequency": 16})
_add("vblora", "VBLoRAConfig", {"r": 2, "num_vectors": 8, "vector_length": 4})
_add("layer norm tuning", "LNTuningConfig", targets=["norm"])
_add("bone", "BoneConfig", {"r": 4})
_add("bone, bat", "BoneConfig", {"r": 4, "init_weights": "bat"})
_add("miss", "MissConfig", {"r": 4})
_add("miss, bat", "MissConfig", {"r": 4, "init_weights": "bat"})
_add("trainable tokens", "TrainableTokensConfig", {"token_indices": [1, 3]}, targets=["emb"])
_add(
    "lora, trainable_token_indices",
    "LoraConfig",
    {**_LORA, "trainable_token_indices": {"emb": [1, 3]}},
)
_add("randlora", "RandLoraConfig", {"r": 4})
_add("randlora, sparse", "RandLoraConfig", {"r": 4, "sparse": True})
_add("c3a", "C3AConfig", {"block_size": 4})
_add("shira", "ShiraConfig", {"r": 4, "random_seed": 5})
_add("road", "RoadConfig", {"group_size": 4})
_add("waveft", "WaveFTConfig", {"n_frequency": 16})
_add("delora", "DeloraConfig", {"r": 4})
_add("osf", "OSFConfig", {"effective_rank": 4}, {"effective_rank": 4, "target_modules": None})
_add("gralora", "GraloraConfig", {"r": 4})
_add("gralora, hybrid", "GraloraConfig", {"r": 4, "hybrid_r": 2})
_add("hira", "HiraConfig", {"r": 4})
_add("hira, convolution", "HiraConfig", {"r": 4}, targets=CONVOLUTIONS)
_add("lily", "LilyConfig", {"r": 4})
_add("peanut", "PeanutConfig", {"r": 4})
_add("psoft", "PsoftConfig", {"r": 4})
_add("pvera", "PveraConfig", {"r": 8})
_add("tinylora", "TinyLoraConfig", {"u": 8})
_add("unilora", "UniLoraConfig", {"r": 4})
_add("adamss", "AdamssConfig", {"r": 8})
_add("beft", "BeftConfig")
_add("deft", "DeftConfig", {"r": 4})
_add("frod", "FrodConfig", {"progressbar": False})
_add("glora", "GloraConfig", {"r": 4})
_add("super-tuning", "SupertuningConfig", {"sparsity": 0.9})
