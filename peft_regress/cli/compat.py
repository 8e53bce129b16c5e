"""The command `peft-regress compat`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from peft_regress import registry
from peft_regress.catalogue.own_cases import settings_in_use
from peft_regress.cli.options import (
    SectionedCommand,
    examples,
    format_option,
    jobs_option,
    limit_option,
    output_file,
    pip_limit_option,
    print_json,
)
from peft_regress.interrupts import ending_signals_interrupt
from peft_regress.report.terminal import print_progress, show, write_markdown
from peft_regress.text import clean, printable
from peft_regress.upgrades.compat import compat_report
from peft_regress.upgrades.compat.adapter import SavedAdapter, read_adapter
from peft_regress.upgrades.compat.certificate import (
    FILE_NAME,
    Certificate,
    read_certificate,
    require_same_files,
)
from peft_regress.upgrades.compat.compat import Compat, CompatSettings, check_installed, compat
from peft_regress.upgrades.compat.compat_report import write_certificate
from peft_regress.upgrades.compat.messages import BaseModel
from peft_regress.workers.pool import default_jobs

_LARGEST_SIDE = 2**16


def _shape(_: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    """Read a shape, such as 4,3,32,32."""
    if text is None:
        return None
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size <= _LARGEST_SIDE for size in sizes):
        raise click.BadParameter(
            f"{text!r} is no shape: write sizes with commas, such as 4,3,32,32", param=option
        )
    return sizes


_OF_CERTIFICATE = ("shape", "classes", "saved_by")
_AS_TYPED = (
    *("package", "releases", "last_patches", "saved_by", "also_install", "replace_torch", "pre"),
    "time_limit",
)


@click.command(
    "compat",
    cls=SectionedCommand,
    sections={
        "Base": ("base", "inputs", "shape", "classes"),
        "Releases": ("package", "releases", "last_patches", "saved_by", "also_install"),
        "Environments": ("pre", "replace_torch", "jobs", "time_limit", "pip_time_limit"),
        "Files": ("certificate", "check", "summary"),
    },
    epilog=examples(
        "peft-regress compat lora --base nets:make --shape 4,3,32,32",
        "peft-regress compat lora --base resnet18 --releases 0.14.. --certificate .",
        "peft-regress compat lora --check lora/compat.json --base nets:make",
    ),
)
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--base",
    metavar="NAME",
    help="The model that the adapter is for: `pkg.mod:callable`, which returns it with weights, or "
    "an architecture of the catalogue, such as resnet18.",
)
@click.option(
    "--inputs",
    metavar="PATH",
    help="`pkg.mod:callable`, which returns a batch: a tensor, or a tuple or mapping of them "
    "(default: the model's dummy_inputs; images for an architecture of the catalogue).",
)
@click.option(
    "--shape",
    callback=_shape,
    metavar="SIZES",
    help="Draw inputs of this shape instead: 4,3,32,32.",
)
@click.option(
    "--classes",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Classes of an architecture of the catalogue (default: 10).",
)
@click.option("--package", default="peft", show_default=True, help="Try releases of this package.")
@click.option(
    "--releases",
    metavar="RANGE",
    help="Such as 0.10.0..0.21.2, 0.14.. or 0.12.0,0.21.2 (default: the last patch of each minor "
    "release of peft from 0.10 on).",
)
@click.option(
    "--last-patches", is_flag=True, help="Of each minor release in RANGE only the last patch."
)
@click.option(
    "--saved-by",
    metavar="VERSION",
    help="The release that saved the adapter, to compare with (default: what its configuration "
    "says, since 0.18; of another package the installed release).",
)
@click.option(
    "--with",
    "also_install",
    multiple=True,
    metavar="REQUIREMENT",
    help="Install this requirement with each release; may be repeated.",
)
@click.option("--pre", is_flag=True, help="Allow pre-releases in RANGE.")
@click.option(
    "--yes", "replace_torch", is_flag=True, help="Allow another build of torch without asking."
)
@jobs_option("Try this many releases at once (default: one per core).")
@limit_option("--time-limit", "How long the model or the adapter may take to load.")
@pip_limit_option
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Write what was found to this file, or to {FILE_NAME} in this folder.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Judge the installed release, or those of --releases, by this certificate, whose --base, "
    "--inputs and --package are typed as well.",
)
@click.option(
    "--summary", type=output_file, metavar="FILE", help="Write the report there, as Markdown."
)
@format_option
@click.pass_context
def command(  # noqa: PLR0913  (arguments and options)
    context: click.Context,
    /,
    adapter: Path,
    *,
    certificate: Path | None,
    check: Path | None,
    summary: Path | None,
    output: str,
    **options: Any,
) -> None:
    """Show which releases load the saved ADAPTER, and whether they compute the same.

    ADAPTER is a folder that peft's save_pretrained wrote. Each release loads it in an environment
    over this one, on the same base model. Its output is compared with that of the release that
    saved the adapter. The exit code is 1 if a release refuses it or computes something else, 3 if a
    release could not be tried.
    """
    saved = read_adapter(adapter)
    if certificate is not None and certificate.is_dir():
        certificate /= FILE_NAME
    latest: Compat | None = None

    def keep(found: Compat) -> None:
        nonlocal latest
        latest = found

    try:
        with ending_signals_interrupt():
            if check is None:
                found = compat(saved, _settings(options), progress=_say, on_result=keep)
            else:
                found = _checked(saved, check, options, keep)
    except KeyboardInterrupt:
        if latest is not None:
            _show(dataclasses.replace(latest, is_complete=False), output)
        raise
    # Before the files: a full disk must not cost what was found.
    _show(found, output)
    if certificate is not None:
        write_certificate(certificate, found)
        print_progress(f"certificate: {certificate}")
    if summary is not None:
        write_markdown(summary, compat_report.compat_document(found))
        print_progress(f"summary: {summary}")
    context.exit(found.exit_code)


def _show(found: Compat, output: str) -> None:
    if output == "json":
        print_json(compat_report.encode_compat(found))
    else:
        show(compat_report.compat_document(found), output)


def _say(text: str) -> None:
    print_progress(clean(text, longest=400))


def _settings(options: Mapping[str, Any]) -> CompatSettings:
    """Return what was typed. Raises `UsageError` without a base, or with two kinds of inputs."""
    if not options["base"]:
        raise click.UsageError(
            "name the model that the adapter is for: --base pkg.mod:callable, or --base resnet18"
        )
    if options["inputs"] is not None and options["shape"] is not None:
        raise click.UsageError(
            "--inputs and --shape exclude each other: both say what the model gets"
        )
    base = BaseModel(
        name=options["base"],
        **{name: options[name] for name in ("inputs", "shape", "classes")},
    )
    if base.is_own and base.classes is not None:
        raise click.UsageError(
            "--classes is for an architecture of the catalogue; your callable decides itself"
        )
    if not base.is_own:
        registry.get("architecture", base.name)
    return CompatSettings(
        base=base,
        folder=settings_in_use().folder,
        jobs=options["jobs"] or default_jobs(),
        pip_seconds=options["pip_time_limit"],
        **{name: options[name] for name in _AS_TYPED},
    )


def _checked(
    saved: SavedAdapter,
    file: Path,
    options: Mapping[str, Any],
    keep: Callable[[Compat], None],
) -> Compat:
    """Judge the installed release, or the named ones, by a certificate."""
    typed = [name for name in _OF_CERTIFICATE if options[name] is not None]
    if typed:
        raise click.UsageError(
            f"--{typed[0].replace('_', '-')} is not for --check: the certificate says it"
        )
    certificate = read_certificate(file)
    _require_typed(certificate, file, options)
    if options["releases"] is None:
        return check_installed(
            certificate,
            saved,
            folder=settings_in_use().folder,
            time_limit=options["time_limit"],
        )
    require_same_files(certificate, saved)
    base = {name: getattr(certificate.base, name) for name in ("shape", "classes")}
    settings = _settings({**options, **base})
    return compat(saved, settings, certificate=certificate, progress=_say, on_result=keep)


def _require_typed(certificate: Certificate, file: Path, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless what a certificate lets run is what was typed.

    Anybody can write a certificate: nothing is imported, called or installed for it alone.
    """
    named = {
        "base": certificate.base.name,
        "inputs": certificate.base.inputs,
        "package": certificate.package,
    }
    if named != {name: options[name] for name in named}:
        words = [
            f"--{name} {shlex.quote(value)}"
            for name, value in named.items()
            if value is not None and (name, value) != ("package", "peft")
        ]
        msg = (
            f"{file} is about {' '.join(words)}: if you trust that, type it beside --check; what a "
            "certificate names does not run by itself"
        )
        raise click.UsageError(printable(msg))
