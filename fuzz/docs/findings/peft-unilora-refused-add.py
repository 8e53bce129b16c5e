"""UniLoRA: a refused adapter leaves its vector behind.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`add_adapter` refuses an adapter whose `target_modules` match nothing. For UniLoRA the shared vector of
this adapter is there afterwards, trains, and is counted. Added once more with the right layers, the
adapter gets the vector of the first try, although another length is asked for.

Expected: No parameters after the refusal, and length 16 the second time.

Cause: `UniLoraModel` in `tuners/unilora/model.py` makes the vector in `_pre_injection_hook` and in
`inject_adapter`, before the layers are looked for, and keeps one that is there by this name.
`_create_and_replace` makes it, too, once there is a layer. Without the other two calls of
`_init_unilora_theta_d`, the script prints no parameters after the refusal, and `(16,)` twice.
"""
# peft==0.21.2

from peft import UniLoraConfig, get_peft_model
from torch import nn


def of_second(model):
    named = {name: p for name, p in model.named_parameters() if "second" in name}
    return [f"{tuple(p.shape)}, trains: {p.requires_grad}" for p in named.values()]


def config(layer, length):
    return UniLoraConfig(target_modules=[layer], theta_d_length=length)


for is_refused_first in (False, True):
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config("0", 64))
    if is_refused_first:
        try:
            model.add_adapter("second", config("nowhere", 64))
        except ValueError as error:
            print("refused:", type(error).__name__)
        print("adapters:", list(model.peft_config), "parameters of second:", of_second(model))
    model.add_adapter("second", config("0", 16))
    print("added with length 16:", of_second(model))

# It prints:
# added with length 16: ['(16,), trains: False']
# refused: NoMatchingPeftModuleError
# adapters: ['default'] parameters of second: ['(64,), trains: True']
# added with length 16: ['(64,), trains: False']
