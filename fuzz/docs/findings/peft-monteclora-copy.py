"""MonteCLoRA: after a step of training the model cannot be copied.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

A forward pass in training mode leaves its graph in two buffers. `copy.deepcopy` then raises, in evaluation
mode as well, and so does `torch.optim.swa_utils.AveragedModel`, which copies the model.

Expected: `copied` twice.

Cause: `MontecloraSampler.forward` in `tuners/lora/monteclora.py` puts `gaussian_var_prior` and
`expert_weights` into buffers, for `get_variational_loss` to differentiate later. Plain attributes
could hold those with a graph, and be dropped by `__getstate__`, with the buffers `detach`ed.
"""
# peft==0.21.2

import copy

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import MontecloraConfig
from torch import nn

for config in (None, MontecloraConfig()):
    lora = LoraConfig(target_modules=["0"], monteclora_config=config)
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), lora).train()
    model(torch.ones(2, 8)).sum().backward()
    model.zero_grad()
    try:
        copy.deepcopy(model.eval())
        print(f"{'LoRA' if config is None else 'MonteCLoRA'}: copied")
    except RuntimeError as error:
        print(f"MonteCLoRA: RuntimeError: {str(error)[:46]}")

# It prints:
# LoRA: copied
# MonteCLoRA: RuntimeError: Only Tensors created explicitly by the user (g
