"""OSF takes two more products of a layer's size since peft 0.21.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU. This is about cost; the results are right.

Pull request #3524 adds the update as two thin products, "to reduce memory and compute". Half of the
singular vectors train by default, and the update takes those of the start, too: together as many as
the layer is wide. So each product is as large as the layer's own.

Expected: One product more than the layer's own, of weights, as up to 0.20: it does not grow with
the number of tokens.

Cause: `Linear.forward` in `tuners/osf/layer.py` calls `F.linear(h, A)` of `h = F.linear(x, B)`,
whatever the number of tokens is. With more of them than half of the layer's width it takes less to
form the update, `A @ B`, and to add it to the weight.
"""
# peft==0.21.2

import torch
from peft import OSFConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(model, tokens):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(tokens, 64))
    return counter.get_total_flops()


for tokens in (16, 64, 256, 1024):
    alone = forward_flops(nn.Linear(64, 64), tokens)
    adapted = get_peft_model(nn.Sequential(nn.Linear(64, 64)), OSFConfig(target_modules=["0"]))
    ratio = forward_flops(adapted, tokens) / alone
    formed = (tokens + 64) / tokens
    print(f"{tokens} tokens: {ratio:.2f} times the layer; with the update formed {formed:.2f}")

# It prints:
# 16 tokens: 3.00 times the layer; with the update formed 5.00
# 64 tokens: 3.00 times the layer; with the update formed 2.00
# 256 tokens: 3.00 times the layer; with the update formed 1.25
# 1024 tokens: 3.00 times the layer; with the update formed 1.06
