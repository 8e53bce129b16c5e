"""Fira, a successor of GaLore in pytorch_optimizer, as the optimizer of training in full."""

from pytorch_optimizer import Fira
from transformers import LlamaForCausalLM

from fine_tunings.galore import CONFIG
from fine_tunings.made_up import sequences
from peft_regress import FineTune

PROJECTED = {"rank": 4, "update_proj_gap": 10, "scale": 0.25, "projection_type": "std"}


def optimizer(model):
    layers, rest = model.model.layers, [model.model.embed_tokens, model.model.norm, model.lm_head]
    plain = [parameter for module in rest for parameter in module.parameters()]
    groups = [{"params": list(layers.parameters()), **PROJECTED}, {"params": plain}]
    return Fira(groups, lr=0.01, foreach=False)


CASE = FineTune(
    "counting/fira-r4/llama",
    model=lambda: LlamaForCausalLM(CONFIG),
    data=sequences,
    adapter="full",
    optimizer=optimizer,
    seeds=2,
)
