"""Budgets of a project's file in a pytest run, whose measuring is a stub."""

import pytest
from builders import make_record
from stub_measuring import CONFTEST, InnerProject

from peft_regress.project.budgets import Budget

BASE, SAVE = "--regress-baseline=runs/base.json", "--regress-save=runs/run.json"
IDS = [
    f"shift/{method}/{architecture}"
    for method in ("full", "lora-r1", "lora-r4", "lora-r16")
    for architecture in ("tiny", "tiny2")
]
FULL, LORA = "shift/full/tiny", "shift/lora-r4/tiny"
KEPT = """
[kept]
reason = "all cases of the stub cost the same"
cases."*/lora-r*/tiny" = {peak_of_full = 1}
"""
OVER = KEPT + '[over]\nreason = "r"\ncases."*/lora-r4/*" = {peak_of_full = 0.8}\n'


class Project(InnerProject):
    """Full fine-tuning and LoRA on two tiny architectures, judged by a run without budgets."""

    def __init__(self, pytester):
        super().__init__(pytester)
        kept = '("head", "lora")'
        assert kept in CONFTEST
        named = '[tool.peft_regress]\nbudgets = "budgets.toml"\n'
        conftest = CONFTEST.replace(kept, '("full", "lora")')
        self.write({"conftest.py": conftest, "pyproject.toml": named})
        self.judge_by(*IDS)

    def judge_by(self, *ids, **more):
        """Write the run that judges."""
        self.write({"runs/base.json": [make_record(name, **more) for name in ids]})

    def inner(self, *arguments):
        return super().inner("--benchmark-disable", BASE, *arguments)

    def limit(self, text):
        """Write the file of budgets."""
        self.write({"budgets.toml": text})


@pytest.fixture
def project(stubbed):
    return Project(stubbed)


def test_a_run_within_the_budgets_of_the_file_passes_and_its_records_have_them(project):
    project.limit(KEPT)
    code, out = project.inner(SAVE)
    assert code == 0, out
    cases = project.saved().cases
    assert cases[LORA].budget == Budget(of=FULL, peak_of=1.0)


def test_a_share_above_its_limit_fails_the_case_and_the_run(project):
    project.limit(OVER)
    code, out = project.inner(SAVE)
    assert code == 1
    assert "FAILED test_suite.py::test_case[shift/lora-r4/tiny]" in out
    assert f"{LORA}: over budget" in out
    assert f"budget peak_of {FULL}: 100.0 % -> 100.0 %" in out
    assert "OVER BUDGET (2 over budget" in out
    assert "FAILED test_suite.py::test_case[shift/lora-r1/tiny]" not in out


@pytest.mark.parametrize("is_known", [True, False])
def test_a_share_of_what_did_not_run_is_judged_by_the_reference_or_said_not_to_be(
    project, is_known
):
    project.limit(OVER)
    if not is_known:
        project.judge_by(LORA)
    code, out = project.inner(SAVE, "-k", "lora-r4 and not tiny2")
    assert (code, f"{LORA}: over budget" in out) == (int(is_known), is_known)
    text = f"budget peak_of {FULL} is not judged: {FULL} is neither in this run nor among its"
    assert (text in " ".join(out.split())) is not is_known


def test_a_budget_that_is_looser_than_the_references_fails_a_strict_run(project):
    project.judge_by(LORA, budget=Budget(of=FULL, peak_of=1.0))
    project.limit(KEPT.replace("= 1}", "= 1.5}"))
    code, out = project.inner("--regress-strict", "-k", "lora-r4 and not tiny2")
    assert code == 1
    assert f"budget peak_of {FULL} is looser than the baseline's: 100.0 % -> 150.0 %" in out


def test_a_file_that_cannot_be_used_ends_the_run_before_it_measures(project):
    project.limit(KEPT.replace("peak_of_full", "peek_of_full"))
    code, out = project.inner(SAVE)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "peek_of_full" in out
    assert "Traceback" not in out
    assert project.log == []
