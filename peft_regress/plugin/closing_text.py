"""The outcome of a pytest run, and the text that shows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peft_regress import report
from peft_regress.gate.comparison import Comparison
from peft_regress.report.layout import Layout
from peft_regress.report.verdict.next_steps import quoted
from peft_regress.runs.schema import Run


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """The measured run, its comparison, and other problems."""

    run: Run
    comparison: Comparison | None
    """None if the baselines cannot be read."""
    problems: tuple[str, ...] = ()
    """What fails the run besides verdicts: unreadable baselines, a file that was not written."""
    notes: tuple[str, ...] = ()
    """What else to say: of records that were taken, and of journals."""

    @property
    def failed(self) -> bool:
        """Whether the pytest run must fail."""
        return bool(self.problems) or self.comparison is None or bool(self.comparison.red)


def closing_text(
    outcome: RunOutcome, layout: Layout, *, saved: str | None, verbose: bool, notes: Sequence[str]
) -> str:
    """Return the verdict for the end of the terminal output, its last line the outcome.

    saved: the run file as it is shown, None if none was asked for. verbose: print the numbers of
    each case. notes: lines to add.
    """
    run, comparison = outcome.run, outcome.comparison
    notes = [*_notes(outcome, saved), *notes]
    if comparison is None:
        return "\n\n".join(layout.wrapped(line) for line in (*notes, *outcome.problems))
    # Without references the numbers themselves are the result.
    are_judged = bool(comparison.references.keys() & run.cases.keys())
    with_numbers = bool(run.cases) and (verbose or not are_judged)
    if run.cases and not with_numbers:
        command = "" if saved is None else f", or `peft-regress report {quoted(saved)}`"
        notes.append(f"numbers of each case: `-v`{command}")
    text = report.verdict_text(
        comparison, layout=layout, verbose=verbose, notes=notes, problems=outcome.problems
    )
    return f"{report.results_table(run, layout)}\n\n{text}" if with_numbers else text


def _notes(outcome: RunOutcome, saved: str | None) -> Iterator[str]:
    run = outcome.run
    trained = [record for record in run if "first_losses" in record.metrics]
    if trained and not any("step_seconds" in record.metrics for record in trained):
        yield "times: not measured, because pytest-benchmark's timer is off"
    if run.selection.narrowed_by:
        how = ", ".join(run.selection.narrowed_by)
        yield f"partial run ({how}): {len(run.selection.not_selected)} not selected"
    if saved is not None and not outcome.problems:
        yield f"run file: {saved}"
    yield from outcome.notes
