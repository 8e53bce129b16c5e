"""Workflows and the action: what the linters of `tox -e lint` do not see."""

import re

import pytest
from workflow_files import ACTION, ROOT, WORKFLOWS, jobs, read, tox, workflow

from peft_regress.catalogue.matrix import matrix_cases, shard_of

PAGES = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
RUN = "github.event.workflow_run"


def writes(job):
    return {name for name, access in job["permissions"].items() if access == "write"}


def actions(job):
    return [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]


def scripts_of(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def artifact(job, kind):
    (step,) = [step for step in job["steps"] if f"{kind}-artifact" in step.get("uses", "")]
    return step["with"]


def test_only_the_publishing_jobs_may_write_and_no_workflow_has_a_secret():
    assert {name: writes(job) for name, job in jobs().items() if writes(job)} == {
        ("comment", "comment"): {"pull-requests"},
        ("pages", "deploy"): {"pages", "id-token"},
        ("release", "publish"): {"id-token"},
        ("upgrade", "issue"): {"issues"},
    }
    assert not [path for path in (*WORKFLOWS, ACTION) if "secrets." in path.read_text()]


def test_a_fork_s_code_never_runs_with_a_token_that_writes():
    for path in WORKFLOWS:
        document = read(path)
        events = set(document["on"])
        assert not events & {"pull_request_target", "issue_comment"}
        assert ("workflow_run" in events) is (path.stem in {"comment", "pages"})
        if any(writes(job) for job in document["jobs"].values()):
            assert events in ({"schedule", "workflow_dispatch"}, {"workflow_run"}, {"push"})
            # A push to a branch starts no such workflow.
            assert "push" not in events or document["on"]["push"].keys() == {"tags"}


def test_an_action_has_the_same_commit_everywhere_in_the_pages_too():
    texts = [*(path.read_text() for path in (*WORKFLOWS, ACTION)), PAGES]
    used = {line for text in texts for line in re.findall(r"uses: ([a-z]+/[^.\n]*@.*)", text)}
    assert len(used) == len({line.partition("@")[0] for line in used}) == 8
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line) for line in used)


WRITERS = {
    ("comment", "comment"): 'comment "$RUNNER_TEMP/verdict"',
    ("upgrade", "issue"): 'issue "$RUNNER_TEMP/results" --candidate "$CANDIDATE"',
}
"""What each job with a token that writes runs of tools/ci/publish.py: it runs nothing else."""


@pytest.mark.parametrize("name", WRITERS, ids="-".join)
def test_a_job_that_writes_runs_the_tool_alone_on_files_outside_the_checkout(name):
    job = jobs()[name]
    assert actions(job) == [
        "actions/checkout", "actions/setup-python", "actions/download-artifact",
    ]  # fmt: skip
    assert job["steps"][0]["with"] == {"persist-credentials": False}  # and so the default branch
    assert artifact(job, "download")["path"].startswith("${{ runner.temp }}/")
    assert scripts_of(job) == [f"python tools/ci/publish.py {WRITERS[name]}"]
    # Only the publishing step gets the token.
    with_token = [step for step in job["steps"] if "GH_TOKEN" in step.get("env", {})]
    assert [step["run"] for step in with_token] == scripts_of(job)
    assert "env" not in job


def test_the_commenting_workflow_takes_the_verdict_of_bench_and_what_github_says_of_the_run():
    text = (ROOT / ".github" / "workflows" / "comment.yml").read_text()
    expressions = set(re.findall(r"\$\{\{ (.*?) \}\}", text.partition("jobs:")[2]))
    facts = ("id", "html_url", "head_sha", "head_branch", "head_repository.full_name")
    assert expressions == {
        *("github.repository", "github.token", "runner.temp"),
        *(f"{RUN}.{fact}" for fact in facts),
    }
    bench, comment = workflow("bench"), workflow("comment")
    assert comment["on"]["workflow_run"]["workflows"] == [bench["name"]]
    kept = {
        step["with"]["name"]: step.get("if")
        for step in bench["jobs"]["verdict"]["steps"]
        if "upload-artifact" in step.get("uses", "")
    }
    assert kept.items() >= {"verdict": "always()", "proposed-baseline": "always()"}.items()
    assert artifact(comment["jobs"]["comment"], "download")["name"] == "verdict"


def test_a_pull_request_is_judged_by_the_code_of_its_base_and_each_candidate_is_published():
    judge, baselines, *_ = workflow("bench")["jobs"]["verdict"]["steps"]
    assert judge["with"]["ref"] == "${{ github.event.pull_request.base.sha || github.sha }}"
    assert baselines["with"]["sparse-checkout"] == "baselines"
    found = workflow("upgrade")["jobs"]
    gated = [entry["candidate"] for entry in found["gate"]["strategy"]["matrix"]["include"]]
    assert found["issue"]["strategy"]["matrix"]["candidate"] == gated == ["release", "main"]
    assert "github.ref == 'refs/heads/main'" in found["issue"]["if"]
    assert found["gate"]["with"]["artifact"] == "upgrade-${{ matrix.candidate }}"


def test_the_reusable_workflow_passes_every_input_to_the_action():
    """Unknown inputs are actionlint's to find; forgotten ones, and a wrong path, are not."""
    document = workflow("gate")
    inputs = set(document["on"]["workflow_call"]["inputs"])
    path = ACTION.parent.relative_to(ROOT).as_posix()
    (step,) = [s for s in document["jobs"]["gate"]["steps"] if s["uses"] == f"$/{path}"]
    assert step["with"] == {name: f"${{{{ inputs.{name} }}}}" for name in inputs}


def test_lint_checks_every_workflow_and_issue_form():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))
    for name, paths in (("workflows", WORKFLOWS), ("issue_forms", forms)):
        assert tox()["lint"][name].split() == [path.relative_to(ROOT).as_posix() for path in paths]


def test_every_environment_that_a_workflow_runs_exists():
    environments = set()
    for name in tox():
        head, brace, factors = name.removeprefix("testenv:").partition("{")
        environments |= {head + one for one in factors.rstrip("}").split(",")} if brace else {head}
    matrix = workflow("ci")["jobs"]["check"]["strategy"]["matrix"]["include"]
    text = "".join(path.read_text() for path in WORKFLOWS)
    named = {row["environment"] for row in matrix}
    assert named >= {"lint", "types", "coverage", "slow", "docs", "lowest", "py312", "py314"}
    assert named | {*re.findall(r"tox run -e ([\w-]+)", text)} <= environments


def test_there_is_one_shard_per_architecture():
    job = workflow("bench")["jobs"]["shard"]
    shards = job["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    assert any(f"/{len(shards)}" in script for script in scripts_of(job))
    cases = matrix_cases("default")
    assert len({case.architecture for case in cases}) == len(shards)
    assert set(shard_of(cases, count=len(shards)).values()) == set(shards)
