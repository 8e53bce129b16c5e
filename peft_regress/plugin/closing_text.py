"""What a pytest run says: why a test fails, and the verdict at the end."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from peft_regress import report
from peft_regress.errors import InputError
from peft_regress.report.layout import Layout
from peft_regress.report.terminal import layout_of
from peft_regress.report.verdict.next_steps import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from peft_regress.plugin.options import RegressOptions
    from peft_regress.plugin.session import RegressSession
    from peft_regress.runs.schema import Run

__all__ = ["layout_for", "summary_text"]


def layout_for(config: pytest.Config, options: RegressOptions, *, colour: bool = False) -> Layout:
    """Return how text is laid out; a worker has no terminal but its controller's.

    Not while a test runs: pytest's capture is no terminal.
    """
    told = getattr(config, "workerinput", {}).get("peft_regress_layout")
    if told is not None:
        return Layout(**told)
    return layout_of(sys.__stdout__, colour=colour, ascii_only=options.ascii)


def summary_text(session: RegressSession, layout: Layout) -> str:
    """Return the verdict for the end of the terminal output, its outcome last."""
    if not session.is_gating:
        return "\n".join(layout.wrapped(line) for line in (*session.problems, *_left_out(session)))
    run = session.run()
    comparison = None
    with contextlib.suppress(InputError):
        comparison = session.comparison()
    notes = [*_notes(session, run), *_left_out(session)]
    if comparison is None:
        return "\n\n".join(layout.wrapped(line) for line in (*notes, *session.problems))
    verbose = session.config.get_verbosity() > 0
    # Where nothing judges them, the numbers themselves are what there is to read.
    with_numbers = bool(run.cases) and (
        verbose or not comparison.references.keys() & run.cases.keys()
    )
    if run.cases and not with_numbers:
        saved = session.options.save
        again = (
            "" if saved is None else f", or `peft-regress report {quoted(session.shown(saved))}`"
        )
        notes.append(f"numbers of each case: `-v`{again}")
    text = report.verdict_text(
        comparison,
        layout=layout,
        verbose=verbose,
        notes=notes,
        problems=session.problems,
    )
    return f"{report.results_table(run, layout)}\n\n{text}" if with_numbers else text


def _notes(session: RegressSession, run: Run) -> Iterator[str]:
    """Yield what else there is to say on the run."""
    measured = [record for record in run if record.status == "ok"]
    if measured and not any("step_seconds" in record.metrics for record in measured):
        yield "times: not measured, because pytest-benchmark's timer is off"
    if run.selection.narrowed_by:
        how = ", ".join(run.selection.narrowed_by)
        yield f"partial run ({how}): {len(run.selection.not_selected)} not selected"
    if session.options.save is not None and not session.problems:
        yield f"run file: {session.shown(session.options.save)}"


def _left_out(session: RegressSession) -> list[str]:
    return [
        f"{count} cases of the {matrix} matrix were left out: --regress-matrix {matrix}"
        for matrix, count in sorted(session.other_matrices.items())
    ]
