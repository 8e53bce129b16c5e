"""The training loop: reproducible, in the right modes, on one thread, loud about bad losses."""

import math

import pytest
import torch
from tiny_network import TinyNetwork, tiny_data, tiny_network
from tiny_training import evaluate, finetune
from torch import nn
from torch.nn import functional

from peft_regress.catalogue.methods.adapters import LORA_DROPOUT
from peft_regress.catalogue.methods.selective import BN_HEAD
from peft_regress.errors import NonFiniteLossError
from peft_regress.measure.training import single_thread


def _run(*, seed=0, steps=4, learning_rate=1e-2, **options):
    model = tiny_network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, foreach=False)
    run = finetune(model, optimizer, tiny_data(), steps=steps, batch_size=8, seed=seed, **options)
    return run, model


class _Recorder(nn.Module):
    """A model that notes the thread count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))
        self.threads = set()

    def forward(self, images):
        self.threads.add(torch.get_num_threads())
        return self.weight.expand(len(images), 4)


def test_first_loss_is_that_of_the_untrained_model_on_the_seeds_first_batch():
    run, _ = _run(seed=3)
    data = tiny_data()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(3))[:8]
    logits = tiny_network()(data.train_images[order])
    expected = functional.cross_entropy(logits, data.train_labels[order]).item()
    assert run.losses[0] == pytest.approx(expected, rel=1e-6)
    assert len(run.losses) == len(run.step_seconds) == 4


def test_schedule_is_a_cosine_from_each_groups_peak():
    seen = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            seen.append((self.param_groups[0]["lr"], self.param_groups[1]["lr"]))
            return super().step(closure)

    model = tiny_network()
    head = list(model.head.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    optimizer = Noting([{"params": head, "lr": 0.4}, {"params": rest, "lr": 0.1}])
    finetune(model, optimizer, tiny_data(), steps=4, batch_size=8, seed=0)
    shape = [1.0, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5)]
    assert [pair[0] for pair in seen] == pytest.approx([0.4 * factor for factor in shape])
    assert [pair[1] for pair in seen] == pytest.approx([0.1 * factor for factor in shape])


# Modes


@pytest.mark.parametrize(
    ("method", "modes_of_training"), [(BN_HEAD, (True, False)), (LORA_DROPOUT, (False, True))]
)
def test_batch_norm_and_dropout_train_only_where_the_method_says_so(method, modes_of_training):
    modes = []

    class Noting(TinyNetwork):
        def forward(self, images):
            modes.append((self.norm.training, self.dropout.training))
            return super().forward(images)

    model = Noting().train()
    before = model.norm.running_mean.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    finetune(model, optimizer, tiny_data(), steps=1, batch_size=8, seed=0, set_mode=method.set_mode)
    assert torch.equal(model.norm.running_mean, before) != modes_of_training[0]
    data = tiny_data()
    evaluate(model, data.test_images, data.test_labels)
    assert modes == [modes_of_training, (False, False)]
    assert torch.equal(_run()[1].norm.running_mean, tiny_network().norm.running_mean)


# Losses that are no number


@pytest.mark.parametrize(("poison", "step"), [("weight", 1), ("learning rate", 2)])
def test_a_loss_that_is_no_number_is_raised_at_once_with_its_step(poison, step):
    model = tiny_network()
    if poison == "weight":
        with torch.no_grad():
            model.head.weight[0, 0] = math.nan
    optimizer = torch.optim.SGD(
        model.parameters(), lr=math.inf if poison == "learning rate" else 0.1
    )
    with pytest.raises(NonFiniteLossError, match=f"at step {step} of seed 7"):
        finetune(model, optimizer, tiny_data(), steps=5, batch_size=8, seed=7)


# Threads


def test_everything_runs_on_one_thread_and_the_count_is_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model, data = _Recorder(), tiny_data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        finetune(model, optimizer, data, steps=1, batch_size=8, seed=0)
        evaluate(model, data.test_images, data.test_labels)
        assert model.threads == {1}
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyError), single_thread():
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# Half precision


def test_in_half_precision_losses_are_of_float32_and_the_model_stays_half():
    model = tiny_network().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2, foreach=False)
    data = tiny_data("bfloat16")
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:8]
    first = functional.cross_entropy(
        model(data.train_images[order]).float(), data.train_labels[order]
    ).item()
    run = finetune(model, optimizer, data, steps=60, batch_size=8, seed=0)
    assert run.losses[0] == first
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    accuracy, loss = evaluate(model, data.test_images, data.test_labels)
    assert loss < 0.5 * run.losses[0]
    assert accuracy > 0.7
    logits = model(data.test_images)
    assert loss == functional.cross_entropy(logits.float(), data.test_labels).item()
