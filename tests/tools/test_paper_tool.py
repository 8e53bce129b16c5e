"""The paper's counter, and docs/paper.md against measurements."""

import itertools
import re

import pytest
import torch
from page_tables import main_of_tables
from paper import PAGE, TABLES, others
from paper_counter import count_step
from paper_rows import FLOP_FIGURES, GIGA, adapted, counted, measured, row
from torch import nn


def sgd(model):
    return torch.optim.SGD(model.parameters(), foreach=False)


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


def test_the_printed_flops_on_the_page_are_those_counted_now(capsys):
    code = main_of_tables(PAGE, "paper", TABLES, ["--check", "--only", "flops"])
    assert code == 0, capsys.readouterr().out


def test_what_lora_saves_on_the_language_model_is_what_the_page_says():
    assert others(["gpt2"], [1]).splitlines()[-1] in PAGE.read_text()


@pytest.mark.nightly
def test_every_table_of_the_page_is_up_to_date(capsys):
    assert main_of_tables(PAGE, "paper", TABLES, ["--check"]) == 0, capsys.readouterr().out


def test_every_table_has_a_place_and_no_place_is_without_a_table():
    assert re.findall(r"<!-- paper:(\w+) -->", PAGE.read_text()) == list(TABLES)
