"""Fine-tune torchvision's ResNet-18 with LoRA in a loop of one's own."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18


def main():
    torch.manual_seed(0)
    labels = torch.arange(256) % 10
    images = torch.randn(256, 3, 64, 64) + labels[:, None, None, None] / 5
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)

    adapter = LoraConfig(r=4, target_modules=["conv1", "conv2"], modules_to_save=["fc"])
    model = get_peft_model(resnet18(num_classes=10), adapter)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, foreach=False)

    model.train()
    for at, (inputs, targets) in enumerate(loader):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"batch {at}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
