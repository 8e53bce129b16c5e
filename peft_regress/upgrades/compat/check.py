"""Check a certificate: the adapter must still compute what it says, in the installed release."""

from __future__ import annotations

import sys
from pathlib import Path

from packaging.version import Version

from peft_regress.errors import AbsentError, InputError
from peft_regress.runs.environment import installed_packages
from peft_regress.upgrades.compat.adapter import SavedAdapter
from peft_regress.upgrades.compat.certificate import Certificate, require_same_files
from peft_regress.upgrades.compat.compat import (
    Compat,
    ReleaseResult,
    result_of,
    unusable,
)
from peft_regress.upgrades.compat.releases import BaseModelError, try_adapters
from peft_regress.workers.pool import LocalPool, UnusableEnvironmentError


def check_installed(
    certificate: Certificate, adapter: SavedAdapter, *, folder: Path, time_limit: float
) -> Compat:
    """Load the adapter in the running environment, and judge it by the certificate's output.

    Nothing is installed, and no index is asked. Raises `AbsentError` if the certificate is about
    other bytes, `InputError` if the base model cannot be made.
    """
    require_same_files(certificate, adapter)
    installed = installed_packages().get(certificate.package)
    if installed is None:
        raise AbsentError(
            f"{certificate.package} is not installed, so that there is no release to check"
        )
    release = str(Version(Version(installed).public))
    result: ReleaseResult
    try:
        with LocalPool(1, time_limit) as pool:
            python, adapters = Path(sys.executable), [adapter.folder]
            (future,) = try_adapters(
                pool, python, certificate.base, folder=folder, adapters=adapters
            )
            seen = future.result()
        result = result_of(release, seen, certificate.reference)
    except UnusableEnvironmentError as error:
        result = unusable(release, str(error))
    except BaseModelError as error:
        raise InputError(str(error)) from None
    return Compat(
        adapter=adapter,
        base=certificate.base,
        package=certificate.package,
        reference=certificate.reference,
        why_reference=certificate.why_reference,
        results=(result,),
        certificate=certificate,
    )
