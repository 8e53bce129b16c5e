"""No number in the prose of a user's page goes stale: it is checked here, or is no count.

What a table or a block shows has tests of its own, and docs/choosing.md too.
"""

import json
import re

import pytest
import readability
from examples import ROOT

from peft_regress.baselines.storage import baseline_files
from peft_regress.catalogue.built_in import BATCH, STEPS
from peft_regress.catalogue.methods.adapters import _MOST_INPUTS
from peft_regress.gate import inputs
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.measure.costs import CostSettings
from peft_regress.measure.referee import SHARE
from peft_regress.measure.scripts.script_case import NUDGE
from peft_regress.metrics import OPERATOR_SHARE
from peft_regress.project.devices import RESERVE_BYTES, RUNTIME_BYTES
from peft_regress.upgrades.compat.judging import TOLERANCE
from peft_regress.upgrades.timing import BLOCK_STEPS, LAUNCH_PAIRS

POLICY = DEFAULT_POLICY
STORED = [path for path in (ROOT / "baselines").rglob("*") if path.is_file()]
ENTRIES = {path.name[:4]: path.read_bytes() for path in baseline_files(ROOT / "baselines")}
TIMED = [number for number, one in ENTRIES.items() if json.loads(one)["benchmarks"]]
CLAIMS = {
    "own-model.md": [f"If they differ by more than {inputs.TOLERANCE:.0e}".replace("e-0", "e-")],
    "upgrading.md": [
        f"up to {TOLERANCE:.0e} is the same".replace("e-0", "e-"),
        f"a block is {BLOCK_STEPS} steps",
        f"for every {LAUNCH_PAIRS} pairs",
        f"with {100 * (1 - POLICY.time_error_rate):g} % all of them hold",
        f"hold in at least {100 * (1 - POLICY.time_error_rate):g} % of the runs",
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
        f"may differ by {POLICY.referee_bound:g} of it, or by {POLICY.referee_factor:g} times",
        f"weights that are moved by {SHARE:g} of them change",
        f"Where that would be more than {POLICY.referee_useful:g}, it judges no further",
    ],
    "devices.md": [
        f"by default {RESERVE_BYTES // 2**20} MiB",
        f"at most {RUNTIME_BYTES['executorch'] // 2**20} MiB of code",
        f"the runtime and {float(1 + OPERATOR_SHARE):g} times the tensors",
    ],
    "usage.md": [
        f"takes up to {max(len(one) for one in ENTRIES.values()) / 1e6:.0f} MB",
        f"about {round(sum(path.stat().st_size for path in STORED) / 1e6, -1):.0f} MB",
        f"The entries {' and '.join(TIMED).replace(' and ', ', ', len(TIMED) - 2)} have times",
    ],
    "methods.md": [f"no layer of more than {_MOST_INPUTS:,} inputs"],
}
"""What the pages say with a number that the code has."""

PROGRAMS = "peft|torch|ExecuTorch|Python|transformers|trl"
NO_COUNT = re.compile(
    # Releases and names.
    rf"Raspberry Pi Zero 2 W|(?:{PROGRAMS}|of|or|from|before|Before|since|Since|releases|Releases)"
    r" \d[\d.]*(?:(?:,| and| to) \d[\d.]*)*"
    # What an exit code says has tests of the commands.
    r"|(?:exit code|output code|ends? with).*"
)
"""Numbers that nothing has to keep up to date."""
GENERATED = re.compile(r"<!-- (\w+:\w+) -->.*?<!-- /\1 -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.#-])\d[\d,.]*(?:e-\d+)?(?!\w)")
PAGES = ("index", "own-model", "own-script", "upgrading", "ci", "devices", "usage", "metrics",
         "methods", "run-file", "troubleshooting")  # fmt: skip


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_each_number_of_the_prose_is_checked_or_is_no_count(page):
    text = GENERATED.sub("", (ROOT / page).read_text())
    prose = "\n".join(readability.read_page(page, text).sentences)
    for claim in CLAIMS.get(page.removeprefix("docs/"), ()):
        assert claim in prose
        prose = prose.replace(claim, "")
    for sentence in NO_COUNT.sub("", prose).splitlines():
        assert not NUMBER.search(sentence), sentence


PAPER = (ROOT / "docs" / "paper.md").read_text()


def column(section, name):
    """Return a column of the table in a section of the paper's page, by its first two cells."""
    lines = PAPER.partition(f"\n{section}\n")[2].partition("\n\n#")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")]
                        for line in lines if line.startswith("|"))  # fmt: skip
    return {tuple(row[:2]): float(row[header.index(name)].rstrip(" %")) for row in rows}


def test_the_summary_of_the_papers_page_has_the_numbers_of_its_tables():
    prose = " ".join(readability.read_page("docs/paper.md", PAPER).sentences)
    differences = [float(one) for one in re.findall(r"\(([-+]0\.\d+)\)", PAPER)]
    assert f"within {max(map(abs, differences)):.2f} MiB of the printed one" in prose

    savings = "## The paper's claims, counted correctly"
    mobile = [("mobilenet_v2", "lora"), ("mobilenet_v3_small", "lora")]
    backward = sorted(column(savings, "backward, correct")[one] for one in mobile)
    both = sorted(column(savings, "forward + backward, correct")[one] for one in mobile)
    claim = "{:.0f} to {:.0f} % of the backward pass on the mobilenets, and {:.0f} to {:.0f} % of"
    assert claim.format(*backward, *both) in prose

    others = "## Other architectures"
    total, dora = column(others, "LoRA, paper's total"), column(others, "DoRA, peak")
    gpt2, *nets = names = ("gpt2", "mobilenet_v2", "mobilenet_v3_small")
    first, eighth, last = (
        [f"{total[name, batch]:.0f} %" if total[name, batch] > 0 else "nothing" for name in names]
        for batch in ("1", "8", "32")
    )
    claim = "at batch 1, LoRA saves {} on GPT-2, {} on mobilenet_v2 and {} on mobilenet_v3_small"
    assert claim.format(*first) in prose
    claim = "At batch 8 it saves {}, {} and {}; at batch 32, {}, {} and {}."
    assert claim.format(*eighth, *last) in prose
    assert f"saves {last[0]} of the paper's total on GPT-2 and at most {last[2]}" in prose
    assert 0.4 < sum(total[name, "1"] for name in nets) / 2 / total[gpt2, "1"] < 0.6
    assert total[gpt2, "32"] < total["mobilenet_v2", "1"]
    assert dora["mobilenet_v2", "1"] < 0
    assert all(saved < 0 for (_, batch), saved in dora.items() if batch == "32")
