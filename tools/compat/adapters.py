"""Make one adapter of every variant with the peft of the running interpreter.

    python tools/compat/adapters.py FOLDER

Each goes into a folder of its own; made.json has for each variant its folder and what failed.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WIDTH = 16
TOKENS = 12
CLASSES = 10
SPREAD = 0.1
"""What is added to each number: an untrained adapter mostly changes nothing."""


# --- The base model -------------------------------------------------------------------------------


class Network(nn.Module):
    """A network with convolutions, linear layers, an embedding, an attention and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.emb = nn.Embedding(TOKENS, WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.lin0 = nn.Linear(WIDTH, WIDTH)
        self.lin1 = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        untyped: Any = Conv1D
        self.turned = untyped(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return logits (batch, 10) of images (batch, 3, 8, 8) and tokens (batch, 6)."""
        seen = torch.relu(self.conv1(torch.relu(self.conv0(images)))).mean((2, 3))  # (batch, 16)
        words = self.emb(tokens)  # (batch, 6, 16)
        read = self.attn(words, words, words, need_weights=False)[0].mean(1)  # (batch, 16)
        mixed = torch.relu(self.lin0(seen + read))
        mixed = self.norm(mixed + self.lin1(mixed))
        logits: Tensor = self.head(mixed + self.turned(mixed))
        return logits


def make_base() -> Network:
    """Return the network with seeded weights."""
    torch.manual_seed(1)
    network = Network()
    with torch.no_grad():
        # Its own start of 0.02 would hide what an adapter does to it.
        network.turned.weight.normal_(std=0.25)
    return network


def inputs() -> tuple[Tensor, Tensor]:
    """Return seeded images and tokens."""
    torch.manual_seed(2)
    return torch.randn(4, 3, 8, 8), torch.randint(0, TOKENS, (4, 6))


# --- The variants ---------------------------------------------------------------------------------

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


# --- Saving ---------------------------------------------------------------------------------------


def configurations(kind: str, settings: list[dict[str, Any]]) -> Any:
    """Return the configuration by the first settings that this release takes."""
    for one in settings[:-1]:
        try:
            return getattr(peft, kind)(**one)
        except TypeError:
            continue
    return getattr(peft, kind)(**settings[-1])


def save(name: str, folder: Path) -> str:
    """Make and save one adapter; return why that failed."""
    kind, settings = VARIANTS[name]
    if not hasattr(peft, kind):
        return "absent"
    try:
        configuration = configurations(kind, settings)
        torch.manual_seed(3)
        model = peft.get_peft_model(make_base(), configuration)
        torch.manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(SPREAD * torch.randn_like(parameter))
        model.save_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001  (a release may refuse a variant by any exception)
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def main(folder: Path) -> None:
    """Make them all."""
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    places = {name: re.sub(r"[^\w.=]+", "-", name) for name in VARIANTS}
    made = {name: (place, save(name, folder / place)) for name, place in places.items()}
    (folder / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
