"""A segmentation network with a loss for each pixel: which pixels of a photograph are of a coin."""

from peft import LoraConfig
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from fine_tunings.photos import coins, overlap
from peft_regress import FineTune

CASE = FineTune(
    "coins/lora-r4/lraspp_mobilenet_v3_large",
    model=lambda: lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=2),
    data=lambda: coins(48),
    adapter=LoraConfig(r=4, target_modules=r"backbone\.([2-9]|1[0-5])\.block\.(0|2|3)\.0"),
    also_train=["classifier"],
    loss=lambda model, batch: cross_entropy(model(batch[0])["out"], batch[1]),
    score=overlap,
    mode="eval",
    optimizer=lambda model: AdamW(model.parameters(), lr=0.03, foreach=False),
    steps=12,
    batch=8,
    seeds=1,
)
