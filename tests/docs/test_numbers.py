"""No number in the prose of a user's page goes stale: it is checked here, or is no count.

What a table or a block shows has tests of its own, and docs/choosing.md too.
"""

import re

import pytest
import readability
from examples import ROOT

from peft_regress.catalogue.built_in import BATCH, STEPS
from peft_regress.catalogue.methods.adapters import _MOST_INPUTS
from peft_regress.gate import facts
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.measure.costs import CostSettings
from peft_regress.measure.scripts.script_case import NUDGE
from peft_regress.upgrades.compat.verdicts import TOLERANCE
from peft_regress.upgrades.timing import BLOCK_STEPS

POLICY = DEFAULT_POLICY
CLAIMS = {
    "own-model.md": [f"If they differ by more than {facts._TOLERANCE:.0e}".replace("e-0", "e-")],
    "upgrading.md": [
        f"up to {TOLERANCE:.0e} is the same".replace("e-0", "e-"),
        f"a block is {BLOCK_STEPS} steps",
        f"with {100 * (1 - POLICY.time_error_rate):g} % all of them hold",
        f"every step {100 * POLICY.time_effect:g} % slower",
    ],
    "metrics.md": [
        f"There are {CostSettings().classes} classes",
        f"{STEPS} steps of batch {BATCH}",
        f"A loss below {POLICY.loss_floor:g} of the largest of the case's",
        f"an update below {POLICY.update_floor:g} of the weights",
        f"A difference of losses of at most {POLICY.loss_rounding:g} is none.",
        f"weights moved by {NUDGE:.0e} of them".replace("e-0", "e-"),
        f"the bound is at least {POLICY.nearby_least:.0e}, and never wider",
    ],
    "methods.md": [f"no layer of more than {_MOST_INPUTS:,} inputs"],
}
"""What the pages say with a number that the code has."""

NO_COUNT = re.compile(
    # Releases.
    r"(?:peft|torch|Python|transformers|of|or|from|[Bb]efore|[Ss]ince|[Rr]eleases)"
    r" \d[\d.]*(?:(?:,| and| to) \d[\d.]*)*"
    # What an exit code says has tests of the commands.
    r"|(?:exit code|output code|ends? with).*"
)
"""Numbers that nothing has to keep up to date."""
NUMBER = re.compile(r"(?<![\w.#-])\d[\d,.]*(?:e-\d+)?(?!\w)")
PAGES = ("index", "own-model", "own-script", "upgrading", "ci", "usage", "metrics",
         "methods", "run-file", "troubleshooting")  # fmt: skip


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_each_number_of_the_prose_is_checked_or_is_no_count(page):
    prose = "\n".join(readability.read_page(page, (ROOT / page).read_text()).sentences)
    for claim in CLAIMS.get(page.removeprefix("docs/"), ()):
        assert claim in prose
        prose = prose.replace(claim, "")
    for sentence in NO_COUNT.sub("", prose).splitlines():
        assert not NUMBER.search(sentence), sentence
