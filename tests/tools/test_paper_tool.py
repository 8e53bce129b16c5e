"""The paper's counter, and docs/paper.md against measurements."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import paper
import pytest
import torch
from paper import TABLES, repeated_base_flops
from paper_counter import count_step
from paper_rows import (
    FLOP_FIGURES,
    GIGA,
    adapted,
    counted,
    measured,
    row,
)
from torch import nn

from peft_regress import registry
from peft_regress.cost import profile_step

PAGE = Path(paper.PAGE)


def sgd(model):
    return torch.optim.SGD(model.parameters(), foreach=False)


# --- The counter ----------------------------------------------------------------------------------


def test_a_grouped_convolution_with_a_bias_counts_by_the_paper_s_formulas():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(54, 1)
    )
    count = count_step(model, sgd, input_shape=(1, 3, 5, 5))
    first, second = 25 * 4 * 3, 9 * 6 * 2 * 9
    assert count.piece("convolution", "forward") == 2 * (first + second)
    assert count.piece("convolution bias", "forward") == 2 * 54
    # The second weight's gradient twice too often; the image needs none.
    assert count.piece("convolution gradients", "backward") == 2 * (first + (1 + 2) * second)
    of_the_input, of_the_weights = 4 * 25, 3 * 3 * 1 + 4 * 2 * 9
    assert count.piece("additions in gradients") == 2 * (of_the_input + of_the_weights)
    assert count.piece("addmm") == 2 * 54 - 1 + 54


def test_three_figures_are_made_of_the_pieces():
    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x * 2) + x @ x.new_ones(3, 2)

    count = count_step(Adapter(), sgd, input_shape=(4, 3))
    assert count.forward == (2 * 3 - 1) * 8 + 2 * 3  # only the linear layer
    weight_gradient = (2 * 4 - 1) * 6
    assert count.backward == 4 * 3 + (2 * 3 - 1) * 8 + 2 * 8 + weight_gradient
    assert count.optimizer == 2 * 6 + 2 * 2


@pytest.mark.parametrize(
    "method",
    [
        pytest.param("full", marks=pytest.mark.nightly),
        "lora",
        pytest.param("dora", marks=pytest.mark.nightly),
    ],
)
def test_convolutions_count_as_by_torch_s_counter(method):
    count, step = counted(row("mobilenet_v2", method)), measured(row("mobilenet_v2", method)).step
    products = sum(site.flops for site in step.flops_by_site if site.operator == "aten.mm")
    weight_products = sum(
        site.flops
        for site in step.flops_by_site
        if site.operator == "aten.mm" and site.phase == "forward"
    )
    assert count.piece("convolution gradients") == (
        step.paper_backward_flops - products + weight_products
    )
    assert count.piece("convolution") + count.piece("addmm") == pytest.approx(
        step.paper_forward_flops - weight_products, rel=1e-5
    )


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2"])
def test_additions_in_gradients_are_the_sum_over_the_layers(architecture):
    """From shapes: 2 per element of the input, and 2 per pair of input channels and position."""
    model = adapted(row(architecture, "full"))
    additions = []

    def note(layer, inputs, _output):
        is_stem = not additions  # its input is the image, which needs no gradient
        of_the_weight = layer.in_channels * (layer.in_channels // layer.groups)
        of_the_weight *= math.prod(layer.kernel_size)
        additions.append(2 * of_the_weight + (0 if is_stem else 2 * inputs[0].numel()))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    assert counted(row(architecture, "full")).piece("additions in gradients") == sum(additions)


@pytest.mark.nightly
def test_only_the_counter_without_batch_norm_gives_the_printed_backward_figures():
    figures = [figure for figure in FLOP_FIGURES if figure.name == "backward"]
    work = [
        (phase, piece)
        for piece in ("batch norm", "mm", "add", "mul")
        for phase in ("forward", "backward")
    ]
    work.append(("backward", "additions in gradients"))
    choices = [
        choice
        for size in range(len(work) + 1)
        for choice in itertools.combinations(work, size)
        if all(
            backward_gflops(figure.row, choice)
            == pytest.approx(float(figure.printed), abs=figure.half_digit)
            for figure in figures
        )
    ]
    without_batch_norm = {item for item in work if item[1] != "batch norm"}
    head = ("backward", "mm")  # 0.005 MFLOP, below the last digit
    assert [set(choice) | {head} for choice in choices] == [without_batch_norm] * 2


def backward_gflops(case, choice):
    pieces = counted(case).pieces
    products = pieces["backward", "convolution gradients"]
    return (products + sum(pieces.get(item, 0) for item in choice)) / GIGA


@pytest.mark.parametrize(
    "figure",
    [f for f in FLOP_FIGURES if f.row.method == "dora" and f.name in {"forward", "backward"}],
    ids=str,
)
def test_a_base_convolution_that_runs_twice_is_far_from_the_printed_flops_of_dora(figure):
    """This is why the paper's tests hold only for peft 0.15 and later."""
    again = repeated_base_flops(measured(figure.row).step, figure.name) / GIGA
    assert figure.counted_gflops() == pytest.approx(float(figure.printed), abs=figure.half_digit)
    assert again > 100 * figure.half_digit
    assert "hold for peft 0.15 and later" in " ".join(PAGE.read_text().split())


# --- The layers -----------------------------------------------------------------------------------


def wrapped(case):
    return {
        name.partition("base_model.model.")[2].removesuffix(".base_layer")
        for name, module in adapted(case).named_modules()
        if name.endswith(".base_layer")
    }


def test_the_papers_adapters_are_on_convolutions_and_others_where_the_method_says():
    assert "classifier.0" not in wrapped(row("mobilenet_v3_small", "lora"))
    assert len(wrapped(row("mobilenet_v3_small", "lora"))) == 41
    assert len(wrapped(row("resnet18", "dora"))) == 20
    # No network of the paper: its layers are linear.
    assert any("mlp" in name for name in wrapped(row("vit_b_16", "lora")))


# --- The setting ----------------------------------------------------------------------------------


def test_galore_s_refresh_interval_changes_nothing_between_refreshes():
    case = row("resnet18", "galore")

    def every_200_steps(model):
        optimizer = registry.get("method", "galore").make_optimizer(model, rank=case.rank)
        for state in optimizer.state.values():
            assert state["projector"].update_proj_gap == 15
            state["projector"].update_proj_gap = 200
        return optimizer

    cost = profile_step(
        adapted(case),
        every_200_steps,
        input_shape=(1, 3, 224, 224),
        num_classes=2,
        loss="sum",
    )
    assert cost == measured(case).step


# --- The page -------------------------------------------------------------------------------------


def test_the_printed_flops_on_the_page_are_those_counted_now(capsys):
    assert paper.main(["--check", "--only", "flops"]) == 0, capsys.readouterr().out


@pytest.mark.nightly
def test_every_table_of_the_page_is_up_to_date(capsys):
    assert paper.main(["--check"]) == 0, capsys.readouterr().out


def test_check_shows_the_line_that_differs_and_write_renews_it(tmp_path, monkeypatch, capsys):
    page = tmp_path / "paper.md"
    page.write_text(PAGE.read_text().replace("| 7.05 |", "| 7.06 |"))
    monkeypatch.setattr(paper, "PAGE", page)
    assert paper.main(["--check", "--only", "flops"]) == 1
    changed = [line for line in capsys.readouterr().out.splitlines() if line[:2] in ("-|", "+|")]
    assert [line.split("|")[4] for line in changed] == [" 7.06 ", " 7.05 "]
    assert paper.main(["--write", "--only", "flops"]) == 0
    assert page.read_text() == PAGE.read_text()


def test_every_table_has_a_place_and_no_place_is_without_a_table():
    assert re.findall(r"<!-- paper:(\w+) -->", PAGE.read_text()) == list(TABLES)
