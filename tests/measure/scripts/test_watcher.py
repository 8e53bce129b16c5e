"""What is seen of scripts as people write them: each runs in a process of its own."""

import math
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn
from torchvision.models import resnet18
from watched_scripts import LOOP

from peft_regress import FineTune
from peft_regress.cost.profile import profile_training_step
from peft_regress.measure.costs import ProfileCache, costs_of, metrics_of
from peft_regress.measure.recipe import Recipe

DPO = Path(__file__).parents[3] / "tools" / "studies" / "transitions" / "dpo.py"
EXAMPLES = Path(__file__).parents[3] / "examples" / "training_scripts"


def plain_step():
    """Return the cost of the step of `START`, measured as that of a fine-tuning is."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )
    net[0].requires_grad_(requires_grad=False)
    return profile_training_step(
        net,
        lambda net: torch.optim.AdamW(
            [p for p in net.parameters() if p.requires_grad], lr=0.01, foreach=False
        ),
        batch=(torch.randn(8, 3, 8, 8), torch.randint(10, (8,))),
        loss=lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]),
        fake=False,
    )


def test_a_plain_loop_costs_what_the_same_fine_tuning_costs_to_the_byte(watch):
    seen, expected = watch(LOOP), plain_step()
    # A loop makes its batches by operators of their own.
    costs = {name: value for name, value in seen.step_metrics().items() if name != "aten_ops"}
    assert len(costs) > 10
    assert costs == {name: getattr(expected, name) for name in costs}
    assert sum(site.bytes for site in seen.costs.bytes_at_peak) == costs["peak_bytes"]
    assert {site.module for site in seen.costs.flops_by_site if site.phase != "optimizer"} == {
        "0", "4",
    }  # fmt: skip


@pytest.mark.slow
def test_the_example_with_a_plain_loop_costs_what_the_same_fine_tuning_costs(watch):
    case = FineTune(
        "plain/lora-r4/resnet18",
        model=lambda: resnet18(num_classes=10),
        data=lambda: 2 * ((torch.randn(16, 3, 64, 64), torch.arange(16) % 10),),
        adapter=LoraConfig(r=4, target_modules=["conv1", "conv2"], modules_to_save=["fc"]),
        batch=16,
    )
    expected = costs_of(Recipe.of(case, Path("absent")), ProfileCache())
    assert expected[""].step.tensors == "fake tensors"
    metrics = metrics_of(expected)
    seen = watch((EXAMPLES / "plain_loop.py").read_text(), start="").step_metrics()
    # The loop makes its batches by operators, and keeps the last loss: one number.
    known = {name: metrics[name].value for name in seen if name != "aten_ops"}
    seen["peak_activation_bytes"] -= 4
    seen["category_sum_bytes"] -= 4
    assert known == {name: seen[name] for name in known}
    assert len(known) > 10


def test_what_a_loss_uses_counts_in_each_step(watch):
    constants = """
        tables, plain = iter(kept := [torch.zeros(100_000) for _ in range(9)]), loss_of
        def loss_of(x, y):
            return plain(x, y) + next(tables).sum()
        for x, y in DataLoader(data, batch_size=8):
            step(x, y)
        """
    usual, more = watch(LOOP), watch(constants)
    assert more.step_metrics()["peak_bytes"] - usual.step_metrics()["peak_bytes"] >= 800_000


def test_what_trains_and_how_is_told(watch):
    seen = watch(LOOP, steps=3)
    assert len(seen.steps) == 3
    assert list(seen.trained) == ["1.weight", "1.bias", "4.weight", "4.bias"]
    assert seen.trained["4.weight"].shape == (10, 288)
    assert (seen.model, seen.frozen_params, seen.autocast) == ("Sequential", 224, "")
    (optimizer,) = seen.optimizers
    assert (optimizer.name, optimizer.groups[0]["lr"]) == ("AdamW", 0.01)
    assert optimizer.groups[0]["weight_decay"] == 0.01
    for step in seen.steps:
        assert step.rates == (0.01,)
        assert step.gradient_norm > 0
        assert len(step.micro_batches) == 1
    assert [step.is_recorded for step in seen.steps] == [True, True, False]
    losses = [step.micro_batches[0].loss for step in seen.steps]
    assert losses[0] == pytest.approx(math.log(10), rel=0.5)
    assert len(set(losses)) == 3


def test_accumulation_clipping_and_a_schedule_show_in_the_steps(watch):
    seen = watch(
        """
        schedule = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
        for at, (x, y) in enumerate(DataLoader(data, batch_size=8)):
            (loss_of(x, y) / 2).backward()
            if at % 2:
                nn.utils.clip_grad_norm_(net.parameters(), 0.125)
                opt.step()
                schedule.step()
                opt.zero_grad()
        """
    )
    assert [len(step.micro_batches) for step in seen.steps] == [2] * 4
    assert [step.rates for step in seen.steps] == [(0.01,), (0.005,), (0.0025,), (0.00125,)]
    assert [step.gradient_norm for step in seen.steps] == pytest.approx([0.125] * 4, rel=1e-4)
    assert all(step.unclipped_norm > 0.2 for step in seen.steps)
    assert [step.accumulation for step in seen.steps] == [2] * 4
    one = plain_step()
    assert seen.step_metrics()["forward_flops"] == 2 * one.forward_flops
    assert seen.step_metrics()["optimizer_flops"] == one.optimizer_flops


def test_equal_data_has_equal_digests_and_other_data_has_others(watch):
    tokens = """
        import torch
        from torch import nn
        net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 1))
        opt = torch.optim.SGD(net.parameters(), lr=0.0)
        for row in ([1, 2], [1, 2], [2, 1], [1, 2]):
            net(torch.tensor([row])).sum().backward()
            opt.step()
        """
    seen = watch(tokens, start="")
    digests = [step.micro_batches[0].digests["0"] for step in seen.steps]
    assert digests[0] == digests[1] == digests[3] != digests[2]


def test_workers_of_a_data_loader_change_no_cost(watch):
    usual, forked = watch(LOOP), watch(LOOP.replace("batch_size=8", "batch_size=8, num_workers=2"))
    names = ("forward_flops", "backward_flops", "peak_bytes", "optimizer_flops")
    assert [forked.step_metrics()[name] for name in names] == [
        usual.step_metrics()[name] for name in names
    ]
    assert [step.micro_batches for step in forked.steps] == [
        step.micro_batches for step in usual.steps
    ]


KINDS = {
    "a closure": """
        opt = torch.optim.LBFGS(trained, lr=0.1, max_iter=3)
        x, y = data[:8]
        def closure():
            opt.zero_grad()
            loss = loss_of(x, y)
            loss.backward()
            return loss
        for _ in range(9):
            opt.step(closure)
        """,
    "two optimizers": """
        other = torch.optim.SGD(net[1].parameters(), lr=0.1)
        for x, y in DataLoader(data, batch_size=8):
            for one in (opt, other):
                one.zero_grad()
                loss_of(x, y).backward()
                one.step()
        """,
    "checkpointing": """
        from torch.utils.checkpoint import checkpoint
        for x, y in DataLoader(data, batch_size=8):
            opt.zero_grad()
            hidden = checkpoint(net[:3], x, use_reentrant=False)
            nn.functional.cross_entropy(net[3:](hidden), y).backward()
            opt.step()
        """,
    "a script that catches everything": """
        while True:
            try:
                for x, y in DataLoader(data, batch_size=8):
                    step(x, y)
            except BaseException:
                pass
        """,
    "a thread": """
        thread = threading.Thread(
            target=lambda: [step(x, y) for x, y in DataLoader(data, batch_size=8)]
        )
        thread.start()
        thread.join()
        """,
    "torch.compile": """
        net = torch.compile(net)
        for x, y in DataLoader(data, batch_size=8):
            step(x, y)
        """,
    "autocast": """
        for x, y in DataLoader(data, batch_size=8):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(x, y)
            loss.backward()
            opt.step()
        """,
    "one step and an exit": """
        x, y = data[:8]
        step(x, y)
        sys.exit(0)
        """,
}
MICRO_BATCHES = {"a closure": {3}, "two optimizers": {1, 2}}
"""Those of a step, if not one."""


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_of_all_kinds_are_followed(watch, kind):
    seen = watch(KINDS[kind])
    assert len(seen.steps) == (1 if kind == "one step and an exit" else 4)
    found = {len(step.micro_batches) for step in seen.steps}
    assert found <= MICRO_BATCHES.get(kind, {1})
    assert all(math.isfinite(step.gradient_norm) for step in seen.steps)
    assert (seen.costs is not None) == (len(seen.steps) > 1)
    if seen.costs is not None:
        assert seen.step_metrics()["peak_bytes"] > 0
        assert seen.ended is None
    assert seen.autocast == ("bfloat16" if kind == "autocast" else "")
    assert any("torch.compile" in note for note in seen.notes) == (kind == "torch.compile")


def test_a_script_that_fails_keeps_its_steps_and_says_why(watch):
    seen = watch(
        """
        x, y = data[:8]
        step(x, y)
        raise ValueError("no more data")
        """
    )
    assert len(seen.steps) == 1
    assert (seen.ended.type, seen.ended.message[:12]) == ("ValueError", "no more data")
    assert watch.code != 0


@pytest.mark.slow
def test_the_losses_of_dpo_are_those_of_its_log(watch, tmp_path):
    settings = {"output_dir": str(tmp_path), "logging_steps": 1}
    text = DPO.read_text().replace("**TRAINING", f"**TRAINING | {settings}")
    seen = watch(f"import sys\nsys.path.insert(0, {str(DPO.parent)!r})\n{text}", start="")
    logged = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", watch.printed)]
    assert len(logged) >= 3
    for step, loss in zip(seen.steps, logged, strict=False):
        assert step.accumulation == 4
        assert step.accumulation * step.loss == pytest.approx(loss, rel=1e-3)


SCALED = """
scaler = torch.amp.GradScaler("cpu", init_scale=1024, enabled={enabled})
overflows = {overflows}
net[4].bias.register_hook(lambda grad: grad / 0 if overflows and overflows.pop() else grad)
opt = {optimizer}
for x, y in DataLoader(data, batch_size=8):
    opt.zero_grad()
    scaler.scale(loss_of(x, y) / 1).backward()
    scaler.unscale_(opt)
    nn.utils.clip_grad_norm_(trained, 1e9)
    scaler.step(opt)
    scaler.update()
"""


@pytest.mark.parametrize("fused", ["foreach=False", "fused=True"])
def test_a_scaler_changes_no_number_and_a_step_that_it_skips_is_none(watch, fused):
    optimizer = f"torch.optim.AdamW(trained, lr=0.01, {fused})"
    plain, scaled, skipped = (
        watch(SCALED.format(enabled=enabled, overflows=overflows, optimizer=optimizer))
        for enabled, overflows in ((False, []), (True, []), (True, [True]))
    )
    for was, now in zip(plain.steps, scaled.steps, strict=True):
        assert now.micro_batches[0].loss == pytest.approx(was.micro_batches[0].loss, rel=1e-4)
        assert now.gradient_norm == pytest.approx(was.gradient_norm, rel=1e-3)
        assert now.unclipped_norm == pytest.approx(was.gradient_norm, rel=1e-3)
    assert [len(step.micro_batches) for step in skipped.steps] == [2, 1, 1, 1]
    assert all(math.isfinite(step.gradient_norm) for step in skipped.steps)


TWO_EPOCHS = """
test = TensorDataset(torch.randn(16, 3, 8, 8), torch.randint(10, (16,)))
loader = DataLoader(data, batch_size=8)
for epoch in range({epochs}):
    for at, (x, y) in enumerate({loader}):
        step(x, y)
        if {evaluates}:
            net.eval()
            with torch.no_grad():
                for x, y in DataLoader(test, batch_size=8):
                    net(x)
            net.train()
"""


@pytest.mark.parametrize(
    ("text", "asked", "steps", "before"),
    [
        ({}, {}, [1, 2], {}),
        ({"until": "epoch"}, {}, [1, 2, 7, 8, 9, 10], {"epoch": 8}),
        ({"until": "epoch"}, {"loader": "DataLoader(data, batch_size=8, shuffle=True)"},
         [1, 2, 7, 8, 9, 10], {"epoch": 8}),
        ({"until": "epoch"}, {"epochs": 1}, [1, 2, 7, 8], {"epoch": 8}),
        ({"until": "epoch"}, {"evaluates": "at == 2"}, [1, 2, 7, 8, 9, 10],
         {"epoch": 8, "evaluation": 3}),
        ({"until": "evaluation"}, {"evaluates": "at == 2"}, [1, 2, 3, 4, 5], {"evaluation": 3}),
        ({"until": "evaluation"}, {"evaluates": "at == 5"}, [1, 2, 5, 6, 7, 8], {"evaluation": 6}),
        ({"until": "evaluation"}, {"evaluates": "at == 0"}, [1, 2, 3], {"evaluation": 1}),
    ],
)  # fmt: skip
def test_the_steps_around_an_event_are_kept_and_those_between_not(
    watch, text, asked, steps, before
):
    filled = {"epochs": 2, "loader": "loader", "evaluates": "False", **asked}
    seen = watch(TWO_EPOCHS.format(**filled), steps=2, **text)
    assert [step.number for step in seen.steps] == steps
    assert seen.steps_before == before
    # Eight steps an epoch, however many of them are recorded.
    assert ("epoch" in before) != seen.unseen[-1].endswith("the first after step 8")
    assert seen.is_over
    assert seen.problem is None


def test_a_pass_without_gradients_in_training_mode_is_no_evaluation(watch):
    seen = watch("for x, y in DataLoader(data, batch_size=8):\n"
                 "    with torch.no_grad():\n        net(x)\n    step(x, y)\n")  # fmt: skip
    assert seen.steps_before == {}


def test_an_evaluation_that_never_comes_is_told(watch):
    seen = watch(LOOP, until="evaluation")
    assert [step.number for step in seen.steps] == [1, 2, 3, 4, 7, 8]
    assert not seen.is_over


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("LambdaLR(opt, lambda at: min(at + 1, 9) / 9 - (at > 20))",
         "the learning rate still rises until step 21: steps=22 shows what comes then"),
        ("SequentialLR(opt, [LinearLR(opt, 0.1, 1, 10), ConstantLR(opt, 0.5, 9)], [10])",
         "the learning rate still rises until step 10: steps=11 shows what comes then"),
        ("LambdaLR(opt, lambda at: 1.0 if at < 30 else 0.5)",
         "the learning rate is constant until step 30: steps=31 shows what comes then"),
        ("ReduceLROnPlateau(opt)", "the learning rate is constant"),
        ("CosineAnnealingLR(opt, 100)", None),
    ],
)  # fmt: skip
def test_where_the_learning_rate_goes_is_told(watch, schedule, words):
    seen = watch(
        f"from torch.optim.lr_scheduler import *\nschedule = {schedule}\n"
        "for x, y in DataLoader(data, batch_size=8):\n    step(x, y)\n"
        "    if 'Plateau' not in str(type(schedule)): schedule.step()\n"
    )
    assert [one for one in seen.unseen if "rate" in one] == ([] if words is None else [words])
    assert seen.unseen[-1].endswith("around the first after step 8")


def test_kernels_of_unknown_work_are_named_and_not_counted(watch):
    seen = watch("opt = torch.optim.SGD(trained, 0.01, momentum=0.9, fused=True)\n" + LOOP)
    assert "aten._fused_sgd_" in seen.uncounted["optimizer"]
    assert "optimizer_flops" not in seen.step_metrics()
    momenta = 4 * sum(math.prod(one.shape) for one in seen.trained.values())
    assert seen.step_metrics()["optimizer_state_bytes"] == momenta


def test_a_fused_optimizer_does_the_same_work(watch):
    seen = watch("opt = torch.optim.AdamW(trained, lr=0.01, fused=True)\n" + LOOP)
    assert seen.step_metrics()["optimizer_flops"] == plain_step().optimizer_flops


def test_the_passes_in_a_closure_are_no_part_of_the_update(watch):
    closures = """
        for x, y in DataLoader(data, batch_size=8):
            def closure():
                loss = loss_of(x, y)
                opt.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1e-3)
                return loss
            opt.step(closure)
        """
    usual, seen = plain_step(), watch(closures)
    costs = {name: value for name, value in seen.step_metrics().items() if name.endswith("flops")}
    assert costs == {name: getattr(usual, name) for name in costs}
    assert len(costs) == 5
    assert seen.costs.peak_optimizer_bytes == usual.peak_optimizer_bytes
    assert seen.costs.peak_activation_bytes == usual.peak_activation_bytes
    assert (seen.model, seen.frozen_params) == ("Sequential", 224)
    assert [step.gradient_norm for step in seen.steps] == pytest.approx([1e-3] * 4, rel=1e-2)


def test_a_nudge_moves_the_later_losses_a_little_and_the_first_not(watch):
    plain, nudged = watch(LOOP), watch(LOOP, nudge=1e-4)
    losses = [[step.micro_batches[0].loss for step in seen.steps] for seen in (plain, nudged)]
    assert losses[0][0] == losses[1][0]
    for was, now in zip(*(one[1:] for one in losses), strict=True):
        assert was != now
        assert now == pytest.approx(was, rel=0.05)
