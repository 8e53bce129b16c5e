"""One finding of an upgrade or a bisection, and a script that shows it."""

from __future__ import annotations

from collections.abc import Iterator

from peft_regress.gate.comparison import Comparison
from peft_regress.gate.findings import Finding
from peft_regress.report.document import Line, Listing, Section, case_set
from peft_regress.report.verdict.finding import (
    example_lines,
    finding_details,
    finding_title,
)
from peft_regress.text import clean
from peft_regress.upgrades.reproduction.reproduce import Reproduction


def finding_section(
    head: str,
    finding: Finding,
    comparison: Comparison,
    *,
    package: str | None,
) -> Section:
    """Return what changed, where, by which package, in which cases, and an example's numbers."""
    details = finding_details(finding, comparison)
    body: list[Line | Listing] = [Line(line, most_lines=4) for line in details]
    if package:
        body.append(Line(f"which package: {package}"))
    body.append(Line(f"cases: {case_set(finding.cases)}", most_lines=6))
    numbers = example_lines(finding, comparison)
    if numbers:
        body.append(Line(f"for example {clean(finding.example.case)}:"))
        body.append(Listing("\n".join(numbers)))
    title = f"{head}: {finding_title(finding)}"
    return Section(title=title, body=tuple(body), level=3, style="strong")


def reproduction_sections(made: Reproduction) -> Iterator[Section]:
    """Yield the script, then what it prints on each side."""
    script = Listing(made.script.rstrip(), "python")
    yield Section(title=f"A script that needs only {clean(made.needs)}:", body=(script,))
    for side, output in made.outputs.items():
        yield Section(title=f"It prints, with {clean(side)}:", body=(Listing(output.rstrip()),))
