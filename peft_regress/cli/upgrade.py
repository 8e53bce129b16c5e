"""The command `peft-regress upgrade`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from peft_regress.baselines.outputs import check_output
from peft_regress.cli.options import (
    ENVIRONMENT_SECTIONS,
    SectionedCommand,
    cases_option,
    environment_options,
    examples,
    format_option,
    matrix_option,
    opened_engine,
    output_file,
    print_json,
    strict_option,
)
from peft_regress.cli.progress import print_sentence, record_printer
from peft_regress.environments.overlay.cache import clean_overlays
from peft_regress.environments.overlay.folder import Overlay
from peft_regress.environments.overlay.overlay import ReplacesTorchError
from peft_regress.environments.reproduction.reproduce import Reproduction, reproduce
from peft_regress.environments.upgrade import upgrade_report
from peft_regress.environments.upgrade.keeping import kept_records
from peft_regress.environments.upgrade.measuring import MeasuringSetup
from peft_regress.environments.upgrade.upgrade import (
    Upgrade,
    UpgradeSettings,
    is_installed_here,
    upgrade,
)
from peft_regress.errors import InputError
from peft_regress.files import cache_folder
from peft_regress.fuzz.corpus import read_corpus
from peft_regress.fuzz.replay import Replay, replay_or_say
from peft_regress.fuzz.report import corpus_sections, encode_replay
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.report.terminal import print_progress, say, show, write_markdown
from peft_regress.text import count_of

if TYPE_CHECKING:
    from peft_regress.environments.checklist.checklist import ChecklistSettings

_Settings = TypeVar("_Settings", "UpgradeSettings", "ChecklistSettings")
_Result = TypeVar("_Result")


@click.command(
    "upgrade",
    cls=SectionedCommand,
    sections={
        "Cases": ("cases", "matrix"),
        "Or a checklist": ("checklist_of",),
        "Verdict": ("base", "strict"),
        **ENVIRONMENT_SECTIONS,
        "Files": ("save", *ENVIRONMENT_SECTIONS["Files"]),
    },
    epilog=examples(
        "peft-regress upgrade peft",
        "peft-regress upgrade peft==0.14.0 --cases 'shift/*/resnet18'",
        "peft-regress upgrade --summary issue.md peft torch==2.13.0",
        "peft-regress upgrade ../peft --checklist lora --base ../peft-main",
    ),
)
@click.argument("requirements", metavar="[REQUIREMENT]...", nargs=-1)
@cases_option()
@matrix_option
@click.option(
    "--base",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Compare with `auto` (the stored baseline if it has the installed packages, else `run`), "
    "`run` (a new run of the installed packages), an entry, a run file or a folder; with "
    "--checklist, a requirement.",
)
@click.option(
    "--checklist",
    "checklist_of",
    metavar="METHOD",
    help="In place of cases: compare one method by the protocol of peft's maintainers, for a pull "
    "request.",
)
@click.option(
    "--save", type=output_file, metavar="FILE", help="Write the candidate's run to this file."
)
@strict_option
@click.option(
    "--clean", "clean_up", is_flag=True, help="Remove all kept environments and do nothing else."
)
@environment_options
@format_option
@click.pass_context
def command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    requirements: tuple[str, ...],
    *,
    cases: str | None,
    checklist_of: str | None,
    clean_up: bool,
    setup: MeasuringSetup,
    on: str,
    uses_gpus: bool,
    resume: Path | None,
    summary: Path | None,
    output: str,
    **settings: Any,
) -> None:
    """Show what an upgrade to REQUIREMENT, such as peft==0.14.0, would change.

    A REQUIREMENT is anything that pip installs: a release, `peft @ git+https://...`, a wheel or a
    checkout. It goes into an environment over this one, which stays as it is. The cases run in
    both, and changes are grouped by cause. The exit code is 1 if something regressed, 3 if not
    everything was compared.
    """
    if clean_up:
        if requirements:
            raise click.UsageError("--clean takes no requirement")
        _clean()
        return
    if not requirements:
        raise click.UsageError(
            "name a requirement, for example `peft-regress upgrade peft==0.14.0`, or --clean"
        )
    save: Path | None = settings["save"]
    for option, path in (("--save", save), ("--summary", summary)):
        if path is not None:
            check_output(path, option, storage=setup.baselines)
    if checklist_of is not None:
        _check_is_here(on)
        # It imports numpy, which `upgrade --help` does not wait for.
        from peft_regress.cli.checklist import show_checklist

        context.exit(
            show_checklist(
                context,
                requirements,
                setup=setup,
                method=checklist_of,
                summary=summary,
                output=output,
                **{name: settings[name] for name in ("base", "replace_torch", "pre")},
            )
        )
    wants_scripts = summary is not None or output == "markdown"
    storage = setup.baselines
    with (
        ending_signals_interrupt(),
        opened_engine(on, uses_gpus=uses_gpus, baselines=storage, say=print_sentence) as engine,
        kept_records(save, resume, print_sentence) as keeper,
    ):
        setup = dataclasses.replace(setup, keeper=keeper, engine=engine)
        chosen = UpgradeSettings(setup=setup, pattern=cases, **settings)
        done = _upgraded(requirements, chosen, wants_scripts=wants_scripts)
    besides = tuple(corpus_sections(done.corpus, all_entries=False))
    issue = upgrade_report.upgrade_document(done.result, done.scripts, besides=besides)
    if summary is not None:
        write_markdown(summary, issue)
        print_progress(f"summary: {summary}")
    if output == "json":
        encoded = upgrade_report.encode_upgrade(done.result)
        print_json({**encoded, "exit_code": done.exit_code, "corpus": encode_replay(done.corpus)})
    elif output == "text":
        show(upgrade_report.upgrade_document(done.result, besides=besides), output)
    else:
        show(issue, output)
    context.exit(done.exit_code)


def _check_is_here(on: str) -> None:
    if on != "local":
        raise click.UsageError("--checklist works on this machine alone: it goes without --on")


class _Done(NamedTuple):
    """An upgrade, its scripts, and what the fuzzer's corpus does in its environment."""

    result: Upgrade
    scripts: tuple[Reproduction, ...]
    corpus: Replay

    @property
    def exit_code(self) -> int:
        """Return that of the comparison; 3 instead of 0 if the corpus was not replayed."""
        code = self.result.comparison.exit_code
        return 3 if code == 0 and not self.corpus.is_complete else code


def with_consent(act: Callable[[_Settings], _Result], settings: _Settings) -> _Result:
    """Call a function of settings. If it would replace torch, ask first if somebody can answer."""
    try:
        return act(settings)
    except ReplacesTorchError as error:
        if not sys.stdin.isatty():
            raise
        question = f"This replaces torch {error.old} by {error.new}. Go on?"
        if not click.confirm(question, err=True):
            raise
    return act(dataclasses.replace(settings, replace_torch=True))


def _upgraded(
    requirements: Sequence[str], settings: UpgradeSettings, *, wants_scripts: bool
) -> _Done:
    """Run the upgrade, and replay the corpus in its environment."""
    scripts: tuple[Reproduction, ...] = ()
    corpus = Replay(packages={})
    # Now, since one that cannot be trusted ends it, and the rest takes minutes.
    findings = read_corpus(settings.setup.baselines)

    def finish(result: Upgrade, overlay: Overlay) -> None:
        nonlocal scripts, corpus
        if findings:
            print_sentence(f"replaying {count_of(len(findings), 'finding')} of the fuzzer")
            corpus = replay_or_say(findings, overlay.python)
        if wants_scripts:
            failing = [finding for finding in result.comparison.findings if finding.is_failing]
            # A stored run may be of other packages than the installed ones.
            references = result.comparison.references.values()
            is_here = all(is_installed_here(side.environment) for side in references)
            before = "the packages before" if is_here else "the packages installed here"
            pythons = {before: Path(sys.executable), "those after": overlay.python}
            scripts = reproduce(failing, result.comparison.observed, pythons)

    def upgraded(settings: UpgradeSettings) -> _Done:
        on_record = record_printer(settings.setup.engine)
        result = upgrade(
            requirements, settings, progress=print_sentence, on_record=on_record, finish=finish
        )
        return _Done(result, scripts, corpus)

    return with_consent(upgraded, settings)


def _clean() -> None:
    try:
        removed, used = clean_overlays()
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be removed ({error.strerror or error})"
        ) from error
    say(f"{len(removed)} environments removed from {cache_folder()}")
    if used:
        say(f"{len(used)} are in use and stay: {' '.join(used)}")
