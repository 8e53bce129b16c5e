"""Train a ResNet by PyTorch Lightning, as of 2022."""

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

seed_everything(0)


class Classifier(LightningModule):
    """ResNet-18 on small images."""

    def __init__(self):
        super().__init__()
        self.net = resnet18(num_classes=10)

    def training_step(self, batch, _):
        """Return the loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, foreach=False)


data = TensorDataset(torch.randn(64, 3, 32, 32), torch.randint(10, (64,)))
trainer = Trainer(max_steps=8, accumulate_grad_batches=2, gradient_clip_val=1.0, logger=False)
trainer.fit(Classifier(), DataLoader(data, batch_size=4, shuffle=True))
