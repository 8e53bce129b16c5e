"""The finding that docs/fuzz.md explains is one that the fuzzer makes, shown as it shows it."""

import re
from pathlib import Path

from fuzz_examples import example, layer

from peft_fuzz.run import run
from peft_fuzz.search.causes import cause_of
from peft_fuzz.search.findings import Finding
from peft_fuzz.search.report import finding_section
from peft_regress.report.document import as_text
from peft_regress.report.layout import Layout

PAGE = Path(__file__).parents[1] / "docs" / "fuzz.md"
(SHOWN,) = re.findall(
    r"^```text\n(\d+\. lora on conv1d: .*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


def test_the_finding_of_the_page_is_what_the_installed_peft_does(tmp_path):
    dilated = layer(
        "conv1d", inputs=2, outputs=2, stride=(), padding=(), dilation=(2,), kernel=(3,)
    )
    one = example(dilated, acts=(), network={"sizes": (7,)})
    outcome = run(one, tmp_path)
    assert outcome.failure is not None
    found = Finding(
        cause=cause_of(one, outcome.failure),
        example=one,
        failure=outcome.failure,
        packages=dict(re.findall(r"(\w+) ([\d.]+\d)", SHOWN.partition("seen with: ")[2])),
    )
    section = finding_section(9, found, [found])
    assert as_text((section,), Layout(width=100)) == SHOWN.rstrip()
