"""Draw the rows of a training step's costs, to be packed into a ledger."""

from hypothesis import strategies as st

from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.runs.ledger import LEDGER_METRICS

CATEGORIES = ("param", "buffer", "grad", "activation", "temp", "optimizer")
OPERATORS = ("aten.convolution", "aten.mm", "activation")
NAMES = {
    **{
        f"{kind}_flops": OPERATORS
        for kind in (
            *("forward", "backward", "optimizer", "projection"),
            *("paper_forward", "paper_backward"),
        )
    },
    **{
        f"peak_{category}_bytes": (category, *(f"{category} {op}" for op in OPERATORS))
        for category in CATEGORIES
    },
    "peak_bytes": (*CATEGORIES, *(f"{category} aten.mm" for category in CATEGORIES)),
    "optimizer_state_bytes": ("optimizer",),
    "adapter_bytes": ("ship",),
}
"""What the rows of each metric are named."""

modules = st.sampled_from(["", "conv1", "conv1.base_layer", "fc"])
# Often equal, often 32 times each other, so that much follows.
amounts = st.sampled_from([0, 1, 2, 32, 64]) | st.integers(0, 2**56)


@st.composite
def all_rows(draw):
    return {
        metric + suffix: draw(
            st.dictionaries(st.tuples(modules, st.sampled_from(names)), amounts, max_size=4)
        )
        for metric, names in NAMES.items()
        for suffix in ("", BATCH_SUFFIX)
        if metric + suffix in LEDGER_METRICS and draw(st.booleans())
    }
