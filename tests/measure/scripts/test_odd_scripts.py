"""Scripts that do what few do: each runs watched as it does by itself."""

from __future__ import annotations

from textwrap import dedent, indent

import pytest

START = """
import copy, dataclasses, io, pickle
from multiprocessing.reduction import ForkingPickler
"""
FOUR_STEPS = """
for x, y in DataLoader(TensorDataset(*data[:32]), batch_size=8):
    step(x, y)
    print(float(loss_of(x, y)))
"""
ON_TOKENS = "data = TensorDataset(torch.randint(9, (64, 3)), torch.randint(10, (64,)))\n"
ADAMW = "opt = torch.optim.AdamW(net.parameters(), lr=0.01, foreach=False)\n"


def row(name, before, after_each_step=""):
    return pytest.param(dedent(before), dedent(after_each_step), id=name)


ODD = [
    row("torch.save of the model", "", "torch.save(net, io.BytesIO())"),
    row("a spawned process gets the model", "", "pickle.loads(ForkingPickler.dumps(net))"),
    row("torch.jit.script", "", "print(torch.jit.script(net)(x).shape)"),
    row("torch.jit.trace", "", "print(torch.jit.trace(net[3:], net[:3](x))(net[:3](x)).shape)"),
    row("training a scripted model", "net = torch.jit.script(net)"),
    row("a copy of the model", "", "print(float(copy.deepcopy(net)(x).sum()))"),
    row("groups without lr", """
        class Plain(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, {"pace": 0.1})
            @torch.no_grad()
            def step(self):
                for p in self.param_groups[0]["params"]:
                    p.sub_(p.grad, alpha=0.1)
        opt = Plain(trained)
        """),
    row("sparse gradients", ON_TOKENS + """
net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 10))
opt = torch.optim.SparseAdam(net[0].parameters(), lr=0.01)
"""),
    row("lazy modules", "net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n" + ADAMW),
    row("quantized modules", """
        frozen = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 288)), {nn.Linear}
        )
        net = nn.Sequential(frozen, net[4])
        net.register_buffer("table", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
        """),
    row("parameters of a subclass", """
        class Packed(nn.Parameter):
            def __new__(cls, data):
                return torch.Tensor._make_subclass(cls, data, False)
        net[0].weight = Packed(net[0].weight.detach())
        """),
    row("nested containers", """
        @dataclasses.dataclass
        class Batch:
            images: list
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net
            def forward(self, batch, more):
                return self.net(batch.images[0]["x"] + more["a"][0][0])
        whole = Net()
        def loss_of(x, y):
            return nn.functional.cross_entropy(whole(Batch([{"x": x}]), more={"a": [[x]]}), y)
        """),
    row("nested tensors", "net = nn.Linear(4, 10)\n" + ADAMW + """
def loss_of(x, y):
    rows = [x[0, 0, :2, :4], x[1, 0, :3, :4]]
    made = torch.nested.nested_tensor(rows, layout=torch.jagged)
    return nn.functional.cross_entropy(net(made).values(), y[:5])
"""),
    row("a group added later", "", """
        if len(opt.param_groups) == 1:
            opt.add_param_group({"params": list(net[0].requires_grad_().parameters()), "lr": 0.02})
        """),
    row("hooks of state_dict", "net.register_state_dict_post_hook(lambda *_: print('saved'))",
        "net.load_state_dict(net.state_dict())"),
    row("tied weights", ON_TOKENS + """
net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
net[1].weight = net[0].weight
def loss_of(x, y):
    return nn.functional.cross_entropy(net(x)[:, 0], y)
""" + ADAMW),
    row("parametrizations", "nn.utils.parametrizations.weight_norm(net[4])\n" + ADAMW),
    row("a model on the meta device", "shadow = copy.deepcopy(net).to('meta')\n",
        "print(shadow(x.to('meta')).shape)"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), ODD)
def test_a_watched_script_does_what_it_does_by_itself(watch, before, after):
    seen = watch(START + before + FOUR_STEPS + indent(after, "    "), steps=9)
    watched = watch.code, watch.printed
    watch.alone()
    assert (watch.code, watch.printed) == watched == (0, watch.printed)
    assert seen.ended == ""
    assert len(seen.steps) == 4
    assert seen.costs is not None
