"""A narrowed comparison: the verdicts stay, and the other cases are counted."""

from builders import FULL, LORA, VALUES, compare, make_record

from peft_regress.gate.comparison import narrow
from peft_regress.report import verdict_text
from peft_regress.report.layout import Layout

WORSE = {**VALUES, "forward_flops": 4_000_000_000}


def compared():
    return compare(
        [make_record(LORA), make_record(FULL)], [make_record(LORA, WORSE), make_record(FULL)]
    )


def test_a_last_line_that_leaves_out_a_regression_is_not_green():
    coloured = Layout(colour=True)
    green, yellow = "\x1b[32m", "\x1b[1;33m"
    red_left_out = narrow(compared(), "*/full/*", complete=True)
    assert verdict_text(red_left_out, layout=coloured).rpartition("\n\n")[2].startswith(yellow)
    same = compare([make_record(LORA), make_record(FULL)], [make_record(LORA), make_record(FULL)])
    nothing_left_out = narrow(same, "*/full/*", complete=True)
    assert verdict_text(nothing_left_out, layout=coloured).rpartition("\n\n")[2].startswith(green)
