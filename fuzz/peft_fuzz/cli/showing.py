"""Fuzz, and print and write the result, for `search` and `replay`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft_fuzz.cli.options import say
from peft_fuzz.search.fuzz import INTERRUPTED, Fuzzed, FuzzSettings, fuzz
from peft_fuzz.search.report import encode_fuzzed, fuzz_document, grouped
from peft_fuzz.search.reproduce import Shown, output_of, script_unrun
from peft_regress.baselines.named_runs import check_output
from peft_regress.cli.options import print_json
from peft_regress.report.terminal import print_progress, show, write_markdown
from peft_regress.workers.pool import Pool


def fuzz_and_show(
    requirements: Sequence[str],
    settings: FuzzSettings,
    cluster: Pool | None = None,
    *,
    summary: Path | None,
    output: str,
) -> Fuzzed:
    """Fuzz, print the result, write the summary, and return the result.

    Raises `InputError` as `fuzz` does, for an output inside the corpus, and for a summary that
    cannot be written.
    """
    for option, path in (("--save", settings.save), ("--summary", summary)):
        if path is not None:
            check_output(path, option, storage=settings.corpus, kind="corpus")
    wants_scripts = summary is not None or output != "text"
    scripts: dict[str, Shown] = {}

    def finish(result: Fuzzed) -> None:
        """Run the scripts while the environment exists: some seconds each."""
        if not wants_scripts:
            return
        smallest = [group[0] for group in grouped(result.found)]
        scripts.update({one.name: script_unrun(one) for one in smallest})
        if INTERRUPTED in result.problems:
            return  # whoever ends it does not want to wait
        try:
            for number, (name, shown) in enumerate(list(scripts.items()), start=1):
                say(f"[{number}/{len(scripts)}] running the script of {name}")
                scripts[name] = output_of(shown.script, result.python)
        except KeyboardInterrupt:
            result.problems.append(INTERRUPTED)

    result = fuzz(requirements, settings, progress=say, finish=finish, cluster=cluster)
    if output == "json":
        print_json(encode_fuzzed(result, scripts))
    else:
        show(fuzz_document(result, None if output == "text" else scripts), output)
    # Last, since it may fail: minutes of search are on the screen by then.
    if summary is not None:
        write_markdown(summary, fuzz_document(result, scripts))
        print_progress(f"summary: {summary}")
    return result
