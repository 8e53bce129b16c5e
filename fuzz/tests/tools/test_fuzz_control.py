"""The control: the fuzzer on adapters that are right by construction, and on one that is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import control
import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(path) for path in (ROOT / "tools", ROOT, ROOT.parent)]
ONCE_FALSE = Path(__file__).with_name("once_false_findings.jsonl")


def in_another_process(code, *, given="", reference=control.REFERENCE):
    """Run code that has `control` and the `methods` of the reference; return what it prints."""
    start = (
        f"import sys, pathlib; sys.path[:0] = {PATHS}; import control; "
        f"control.REFERENCE = pathlib.Path('{reference}'); methods = control.use_reference(); "
    )
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + code],
        input=given, capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip


def search(seconds, **options):
    code = (
        f"found = list(control.searches(methods, seed=0, job=0, seconds={seconds})); "
        "print(sorted(methods), sum(sum(one.counts.lives.values()) for one in found)); "
        "print(*[control.described(one.found) for one in found if one.found], sep='\\n')"
    )
    return in_another_process(code, **options)


def test_the_reference_is_not_put_in_place_of_a_peft_that_is_in_use():
    pytest.importorskip("peft")
    with pytest.raises(RuntimeError, match="imported already"):
        control.use_reference()


@pytest.mark.nightly
def test_nothing_is_found_in_adapters_that_are_right():
    methods, _, found = search(8).partition("\n")
    assert methods.startswith("['dora', 'ia3', 'loha', 'lokr', 'lora'] ")
    assert int(methods.rpartition(" ")[2]) > 20
    assert found.strip() == ""


@pytest.mark.slow
def test_what_was_found_once_in_adapters_that_are_right_is_found_no_more():
    code = (
        "import msgspec, tempfile; "
        "from peft_fuzz.example import Example; from peft_fuzz.run import run; "
        "examples = [msgspec.json.decode(line, type=Example) for line in sys.stdin]; "
        "outcomes = [run(one, pathlib.Path(tempfile.mkdtemp())) for one in examples]; "
        "print(len(outcomes), [one.failure for one in outcomes if one.failure])"
    )
    given = ONCE_FALSE.read_text()
    assert in_another_process(code, given=given).strip() == f"{len(given.splitlines())} []"


@pytest.mark.nightly
def test_a_defect_of_the_reference_is_found(tmp_path):
    reference = tmp_path / "reference"
    shutil.copytree(control.REFERENCE, reference)
    methods = reference / "peft" / "tuners" / "methods.py"
    right = methods.read_text()
    methods.write_text(right.replace("self.scaling[name]", "2 * self.scaling[name]", 1))
    assert methods.read_text() != right
    found = search(20, reference=reference)
    # DoRA has the same line.
    assert "lora-" in found or "dora-" in found


@pytest.mark.nightly
def test_the_command_counts_the_lives(capsys):
    assert control.main(["--minutes", "0.1", "--jobs", "1"]) == 0
    assert "it found nothing; " in capsys.readouterr().out
