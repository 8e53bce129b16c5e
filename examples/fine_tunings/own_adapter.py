"""An adapter of one's own: a narrow residual network after each block of a ViT."""

from torch import nn

from fine_tunings.networks import Residual
from fine_tunings.photos import labelled_crops
from fine_tunings.vision_transformer import SIZES, build
from peft_regress import FineTune


def adapt(model):
    model.requires_grad_(False)
    for block in model.blocks:
        block.mlp = nn.Sequential(block.mlp, Residual(SIZES["embed_dim"], rank=4))
    return model


CASE = FineTune(
    "photos/residual-r4/vit",
    model=build,
    data=lambda: labelled_crops(32),
    adapter=adapt,
    also_train=["head"],
    steps=15,
    batch=16,
    seeds=2,
)
