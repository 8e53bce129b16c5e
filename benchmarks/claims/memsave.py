"""memsave_torch (arXiv 2404.12406): freezing convolutions saves no memory in PyTorch, but could.

Printed in experiments/writeup.md of its repository, of ResNet-101 on 64x3x224x224 with trained
BatchNorm: 7995.663 MB after the forward pass, as many with frozen convolutions, and 5341.370 MB
with memsave's layers. Here of what the forward pass keeps, in train mode.
"""

import torchvision
from torch import nn

from peft_regress import lean
from peft_regress.cost import RandomTensor, training_cost

model, images = torchvision.models.resnet101(), RandomTensor((64, 3, 224, 224))


def kept():
    return training_cost(model, images).step.peak_activation_bytes


every = kept()
for layer in model.modules():
    if isinstance(layer, nn.Conv2d):
        layer.requires_grad_(requires_grad=False)
found = {"share kept, printed": 5341.370 / 7995.663, "today": kept() / every}
lean(model, images)
found["lean"] = kept() / every
print({name: round(value, 3) for name, value in found.items()})
