"""The command `peft-regress list`."""

import msgspec

from peft_regress.catalogue.matrix import select_cases
from peft_regress.cli import options
from peft_regress.report.terminal import echo


@options.command(
    "list", "peft-regress list --cases 'shift/*'", "peft-regress list --matrix extended"
)
@options.cases_option()
@options.matrix_option
@options.format_option
def command(cases: str | None, matrix: str, output: str) -> None:
    """List the cases of a matrix."""
    found = select_cases(cases, matrix=matrix)
    if output == "json":
        options.print_json([{"id": case.id, **msgspec.to_builtins(case)} for case in found])
    elif output == "markdown":
        echo("| id | task | method | architecture | rank |\n| --- | --- | --- | --- | ---: |")
        for case in found:
            rank = "" if case.rank is None else case.rank
            echo(f"| {case.id} | {case.task} | {case.method} | {case.architecture} | {rank} |")
    else:
        for case in found:
            echo(case.id)
