"""LoKr of LyCORIS, an adapter that is not peft's: a function returns the adapted model."""

from lycoris import create_lycoris

from fine_tunings.photos import labelled_crops
from fine_tunings.vision_transformer import build
from peft_regress import FineTune


def adapt(model):
    model.requires_grad_(False)
    network = create_lycoris(model.blocks, linear_dim=4, linear_alpha=2, algo="lokr")
    network.apply_to()
    model.lycoris = network  # its parameters are the model's from here on
    return model


CASE = FineTune(
    "photos/lokr-r4/vit",
    model=build,
    data=lambda: labelled_crops(32),
    adapter=adapt,
    also_train=["head"],
    steps=15,
    batch=16,
    seeds=2,
)
