"""The verdicts between the stored entries stay as they were before the packages were rebuilt.

stored_verdicts.json has, for each pair OLD, NEW, what `compare OLD NEW --format json` printed then:
its exit codes, its counts, and a digest of all its values. OLD `baselines` is the storage.
"""

import functools
import hashlib
import json
from pathlib import Path

import pytest
from builders import references_with_drift

from peft_regress.baselines.storage import baseline_files
from peft_regress.catalogue.matrix import DEFAULT_MATRIX, matrices_of
from peft_regress.gate import Invocation, judge, observations_of
from peft_regress.report import encode_verdict
from peft_regress.runs.run_file import read_run_file

STORED = json.loads(Path(__file__).with_name("stored_verdicts.json").read_text())
ENTRIES = STORED["baselines"].keys()


@functools.cache
def stored_runs():
    """Return the entries of that time, by name."""
    paths = baseline_files(Path(__file__).parents[2] / "baselines")
    return {path.stem: read_run_file(path) for path in paths if path.stem in ENTRIES}


def references_of(old):
    """Return what judges, and the ids of the cases that are expected."""
    if old != "baselines":
        references = observations_of(stored_runs()[old].run, old)
        return references, references.keys()
    references = references_with_drift(stored_runs().values())
    return references, {
        name
        for name, reference in references.items()
        if DEFAULT_MATRIX in (matrices_of(reference.record.case) or {DEFAULT_MATRIX})
    }


@pytest.mark.parametrize("old", STORED)
def test_a_stored_entry_is_judged_as_before(old):
    references, expected = references_of(old)
    for new, before in STORED[old].items():
        run = stored_runs()[new].run
        comparison = judge(
            references,
            observations_of(run, new),
            expected=expected,
            complete=run.selection.complete,
            invocation=Invocation(strict="strict_exit_code" in before),
        )
        encoded = encode_verdict(comparison)
        assert encoded["counts"] == before["counts"], new
        assert comparison.lenient_exit_code == encoded["exit_code"] == before["exit_code"], new
        code = before.get("strict_exit_code", before["exit_code"])
        assert comparison.exit_code == code, new
        # Newer than the digests: these entries have no curves, so nothing repeats them.
        assert encoded.pop("repeats") == 0
        for case in encoded["cases"]:
            found = case.pop("remarks", ())
            assert {one["kind"] for one in found if one["subject"] == "training"} <= {"by bounds"}
            others = [one for one in found if one["subject"] != "training"]
            case.update({"remarks": others} if others else {})
            # Their order is a matter of reports.
            case["reasons"].sort(key=lambda reason: reason["metric"])
        text = json.dumps(encoded, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == before["digest"], new
