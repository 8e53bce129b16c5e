"""Parts of training scripts as people write them."""

START = """
    import sys, threading
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    net[0].requires_grad_(False)
    trained = [p for p in net.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, lr=0.01, foreach=False)
    data = TensorDataset(torch.randn(64, 3, 8, 8), torch.randint(10, (64,)))
    def loss_of(x, y):
        return nn.functional.cross_entropy(net(x), y)
    def step(x, y):
        opt.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        opt.step()
    """
LOOP = "for x, y in DataLoader(data, batch_size=8):\n    step(x, y)\n"
