"""docs/extending.md holds: what it says to add is enough."""

import importlib
import sys
from types import SimpleNamespace

import click
import pytest
import torch
from torch import nn

from peft_regress.cost import profile_step
from peft_regress.cost.step_cost import StepCost
from peft_regress.measure.costs import metrics_of
from peft_regress.metrics import BATCH_SUFFIX, COST_METRICS, METRICS, MetricSpec


def test_a_property_and_a_row_make_a_metric_at_both_batches(monkeypatch):
    """They are those of the page."""
    held = property(lambda cost: cost.peak_param_bytes + cost.peak_buffer_bytes)
    monkeypatch.setattr(StepCost, "held_bytes", held, raising=False)
    spec = MetricSpec(unit="byte", direction="lower", kind="exact")
    for table, name in ((COST_METRICS, ""), (METRICS, ""), (METRICS, BATCH_SUFFIX)):
        monkeypatch.setitem(table, f"held_bytes{name}", spec)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(2, 3, 8, 8))
    step = profile_step(
        network,
        lambda model: torch.optim.AdamW(model.parameters(), foreach=False),
        input_shape=(2, 3, 8, 8),
        num_classes=2,
    )
    report = SimpleNamespace(
        step=step, trainable_params=1, total_params=1, adapter_bytes=4, running={}
    )
    for suffix in ("", BATCH_SUFFIX):
        (metric,) = (
            metric
            for name, metric in metrics_of({suffix: report}).items()
            if name == f"held_bytes{suffix}"
        )
        assert metric.value == step.peak_param_bytes + step.peak_buffer_bytes
        assert (metric.unit, metric.kind) == ("byte", "exact")


def test_a_module_and_a_line_make_a_command(monkeypatch, capsys):
    entry = importlib.import_module(
        "peft_regress.cli.main"
    )  # `peft_regress.cli.main` is a function

    @click.command("hello")
    def command():
        """Greet."""
        click.echo("hello")

    monkeypatch.setitem(entry.SECTIONS["Look"], "hello", "Greet.")
    module = SimpleNamespace(command=command)
    monkeypatch.setitem(sys.modules, "peft_regress.cli.hello", module)
    for arguments, printed in ((["hello"], "hello"), (["--help"], "Greet.")):
        with pytest.raises(SystemExit) as ended:
            entry.main(arguments)
        assert ended.value.code == 0
        assert printed in capsys.readouterr().out
