"""MonteCLoRA: a resumed training sees other noise, whatever state is restored.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

Its noise is drawn in advance, ten samples a layer. These are in no state: with the weights and
torch's random numbers as they were, the next forward pass in training mode gives another output.
With dropout in LoRA's place it gives the same one.

Expected: `True` twice.

Cause: `BufferedMontecloraSampler` in `tuners/lora/monteclora.py` is no module, and keeps its samples
in a list. Drawing each of them in the forward pass, or a generator whose seed and position are in
the module's state, would do.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import MontecloraConfig
from torch import nn


def make(config):
    torch.manual_seed(0)
    return get_peft_model(nn.Sequential(nn.Linear(8, 8)), config).train()


for name, settings in (
    ("LoRA with dropout", {"lora_dropout": 0.5}),
    ("MonteCLoRA", {"monteclora_config": MontecloraConfig()}),
):
    config = LoraConfig(target_modules=["0"], init_lora_weights=False, **settings)
    x = torch.ones(2, 8)
    model = make(config)
    model(x)
    weights, state = model.state_dict(), torch.get_rng_state()
    went_on = model(x)
    resumed = make(config)
    resumed.load_state_dict(weights)
    torch.set_rng_state(state)
    print(f"{name}: resumed as it went on: {torch.equal(resumed(x), went_on)}")

# It prints:
# LoRA with dropout: resumed as it went on: True
# MonteCLoRA: resumed as it went on: False
