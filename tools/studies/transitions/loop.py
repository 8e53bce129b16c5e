"""Fine-tune a network by a loop of one's own under accelerate."""

import peft
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(0)
net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 10))
net = peft.get_peft_model(net, peft.LoraConfig(r=4, target_modules=["0", "2"]))
data = TensorDataset(torch.randn(256, 32), torch.randint(10, (256,)))
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, foreach=False)
accelerator = Accelerator(cpu=True)
net, optimizer, loader = accelerator.prepare(
    net, optimizer, DataLoader(data, batch_size=16, shuffle=True)
)
for inputs, labels in loader:
    loss = nn.functional.cross_entropy(net(inputs), labels)
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
