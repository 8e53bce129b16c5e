"""TinyTL (arXiv 2007.11622): training biases takes "up to 6.5x" less memory than all weights.

Printed of ProxylessNAS-Mobile with lite residual modules. Here of the biases and the head of
torchvision's MobileNetV2, which has no such modules: 8x3x224x224, 10 classes, BatchNorm in eval
mode, AdamW. The least is what tensors that a gradient needs take at the fullest moment.
"""

import torchvision

from peft_regress import lean
from peft_regress.cost import RandomTensor, training_cost

model = torchvision.models.mobilenet_v2(num_classes=10).eval()
images = RandomTensor((8, 3, 224, 224))


def step():
    return training_cost(model, images).step


full = step().peak_bytes
for name, parameter in model.named_parameters():
    parameter.requires_grad = name.endswith("bias") or name.startswith("classifier")
plain = step()
lean(model, images)
found = {"times less, printed": 6.5, "today": full / plain.peak_bytes}
found |= {"lean": full / step().peak_bytes, "least": full / plain.attainable_bytes}
print({name: round(value, 2) for name, value in found.items()})
