"""Scripts that do what few do: each runs watched as it does by itself."""

from textwrap import dedent, indent

import pytest
from watched_scripts import LOOP

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


PARAM_BYTES = 4 * (224 + 16 + 2890)


def row(name, before, after_each_step="", sees=None):
    return pytest.param(dedent(before), dedent(after_each_step), sees, id=name)


def sees_the_usual_net(seen):
    assert seen.costs.peak_param_bytes == PARAM_BYTES
    assert {"0", "4"} <= {one.module for one in seen.costs.flops_by_site if one.phase == "forward"}


def sees_no_rates(seen):
    assert {step.rates for step in seen.steps} == {()}


def sees_sparse_gradients(seen):
    assert all(step.gradient_norm > 0 for step in seen.steps)
    # 24 indices, int64, and rows of four.
    assert seen.costs.peak_grad_bytes >= 24 * (8 + 4 * 4)


def sees_what_was_made(seen):
    assert seen.trained["1.weight"].shape == (10, 192) == tuple(seen.weights["1.weight"].shape)
    assert seen.costs.forward_flops == 2 * (2 * 8 * 192 * 10)  # a loss is printed, too
    assert seen.costs.peak_param_bytes == 4 * 193 * 10


def sees_quantized_kernels(seen):
    assert "quantized.linear_dynamic" in seen.uncounted["forward"]
    assert seen.weights["table"].mean == pytest.approx(1)


def sees_names(*names):
    def sees(seen):
        assert set(names) <= seen.steps[0].micro_batches[0].inputs.keys()

    return sees


def sees_both_groups(seen):
    assert [step.rates for step in seen.steps] == [(0.01,), *3 * [(0.01, 0.02)]]
    assert [group["lr"] for group in seen.optimizers[0].groups] == [0.01, 0.02]
    assert "0.weight" in seen.trained
    assert seen.frozen_params == 0


ODD = [
    row("torch.save of the model", "", "torch.save(net, io.BytesIO())", sees_the_usual_net),
    row("a spawned process gets the model", "", "pickle.loads(ForkingPickler.dumps(net))",
        sees_the_usual_net),
    row("torch.jit.script", "", "print(torch.jit.script(net)(x).shape)", sees_the_usual_net),
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
        """, sees=sees_no_rates),
    row("sparse gradients", ON_TOKENS + """
net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 10))
opt = torch.optim.SparseAdam(net[0].parameters(), lr=0.01)
""", sees=sees_sparse_gradients),
    row("lazy modules", "net = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n" + ADAMW,
        sees=sees_what_was_made),
    row("quantized modules", """
        frozen = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 288)), {nn.Linear}
        )
        net = nn.Sequential(frozen, net[4])
        net.register_buffer("table", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
        """, sees=sees_quantized_kernels),
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
        """, sees=sees_names("0.images.0.x", "more.a.0.0")),
    row("nested tensors", "net = nn.Linear(4, 10)\n" + ADAMW + """
def loss_of(x, y):
    rows = [x[0, 0, :2, :4], x[1, 0, :3, :4]]
    made = torch.nested.nested_tensor(rows, layout=torch.jagged)
    return nn.functional.cross_entropy(net(made).values(), y[:5])
""", sees=sees_names("0._values", "0._offsets")),
    row("a group added later", "", """
        if len(opt.param_groups) == 1:
            opt.add_param_group({"params": list(net[0].requires_grad_().parameters()), "lr": 0.02})
        """, sees_both_groups),
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
        "print(shadow(x.to('meta')).shape)", sees_the_usual_net),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "sees"), ODD)
def test_a_watched_script_does_what_it_does_by_itself(watch, before, after, sees):
    seen = watch(START + before + FOUR_STEPS + indent(after, "    "), steps=9)
    watched = watch.code, watch.printed
    watch.alone()
    assert (watch.code, watch.printed) == watched == (0, watch.printed)
    assert seen.ended is None
    assert len(seen.steps) == 4
    assert seen.costs is not None
    if sees is not None:
        sees(seen)


FAILS_ONCE = """
hold, calls = script_recorder.ScriptRecorder.hold_batch, iter([None])
script_recorder.ScriptRecorder.hold_batch = lambda *args: next(calls, hold)(*args)
"""
# Each step calls two outermost modules that no step has called before.
IN_PARTS = """
net = nn.Sequential(net, nn.Linear(10, 10))
def loss_of(x, y):
    return nn.functional.cross_entropy(net[1:](net[:1](x)), y)
"""


@pytest.mark.parametrize(
    ("broken", "where", "steps"),
    [
        ("script_recorder.ScriptRecorder._hold_result = None", "an operator", 4),
        ("watcher.summaries_of = None", "a forward pass", 4),
        ("watcher.BatchSums = None", "a backward pass", 0),
        ("watcher.numbers_of = None", "an optimizer step", 0),
        (FAILS_ONCE, "a forward pass", 4),
    ],
)
def test_a_hook_that_fails_is_told_and_the_script_goes_on(watch, broken, where, steps):
    before = f"from peft_regress.measure.scripts import script_recorder, watcher\n{broken}\n"
    seen = watch(before + IN_PARTS + FOUR_STEPS, steps=4)
    watched = watch.printed
    assert watch.code == 0
    watch.alone()
    assert len(watched.split()) == 3  # it was ended in its fourth step
    assert watch.printed.startswith(watched)
    assert (len(seen.steps), seen.costs) == (steps, None)
    assert seen.why_no_costs.startswith(f"the watcher failed in {where}: TypeError: 'NoneType'")
    assert seen.why_no_costs.endswith("costs are absent")


ALIVE = """
import copy, gc, itertools
def alive():
    found = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    storages = (one.untyped_storage() for one in found if one.is_leaf)
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())
count, plain = itertools.count(1), step
def step(x, y):
    plain(x, y)
    at = next(count)
    print(alive() if at == 2 else "")
    with torch.no_grad():
        update(at)
def update(at):
    pass
"""
AVERAGE = "average = torch.optim.swa_utils.AveragedModel(net)\n"
COPIED = """
average = copy.deepcopy(net)
def update(at):
    if at % {every} == 0:
        for old, new in zip(average.parameters(), net.parameters()):
            old.mul_(0.9).add_(new, alpha=0.1)
"""
CLONED = """
average = {name: one.clone() for name, one in net.state_dict().items()}
def update(at):
    for name, one in net.state_dict().items():
        average[name].copy_(one)
"""
TEACHER = """
teacher, loss = copy.deepcopy(net), loss_of
def loss_of(x, y):
    return loss(x, y) + teacher(x).detach().mean()
"""
# The data that it is made of is no part of the model.
BATCH_BY_WEIGHT = """
net.mean, images = nn.Parameter(torch.zeros(3, 1, 1), False), data.tensors[0]
def update(at):
    return images[:8] - net.mean
"""


@pytest.mark.parametrize(
    "kept",
    [
        AVERAGE + "def update(at):\n    average.update_parameters(net)\n",
        COPIED.format(every=1),
        COPIED.format(every=10),
        CLONED,
        TEACHER,
        BATCH_BY_WEIGHT,
    ],
    ids=["AveragedModel", "a copy", "a copy that is updated rarely", "clones", "a teacher", "data"],
)
def test_memory_has_what_is_alive_beside_the_step(watch, kept):
    (usual, usually_alive), (seen, alive) = (
        (watch(ALIVE + text + LOOP).costs, int(watch.printed.split()[0])) for text in ("", kept)
    )
    held = seen.peak_buffer_bytes - usual.peak_buffer_bytes
    held += seen.peak_param_bytes - usual.peak_param_bytes
    assert held == alive - usually_alive > 0
    if "teacher" not in kept:  # which computes, too
        assert seen.peak_bytes - usual.peak_bytes == held
