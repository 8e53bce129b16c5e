"""Fine-tune a small vision transformer with LoRA by Lightning."""

import lightning
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer


class Classifier(lightning.LightningModule):
    """A vision transformer of which the adapter and the head train."""

    def __init__(self):
        """Build the network and its adapter."""
        super().__init__()
        network = VisionTransformer(
            image_size=32,
            patch_size=8,
            num_layers=2,
            num_heads=4,
            hidden_dim=64,
            mlp_dim=128,
            num_classes=10,
        )
        adapter = LoraConfig(r=4, target_modules=r".*mlp\.[03]", modules_to_save=["heads"])
        self.network = get_peft_model(network, adapter)

    def training_step(self, batch, _batch_idx):
        """Return the loss."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main():
    lightning.seed_everything(0)
    labels = torch.arange(256) % 10
    images = torch.randn(256, 3, 32, 32) + labels[:, None, None, None] / 5
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), loader)


if __name__ == "__main__":
    main()
