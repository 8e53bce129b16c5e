"""Workflows and the action: what the linters of `tox -e lint` do not see."""

from __future__ import annotations

import re
import shlex
import tomllib

import prepare
import publish
import pytest
import yaml
from command_words import check_command
from packaging.requirements import Requirement
from workflow_files import ACTION, ROOT, WORKFLOWS, jobs, read, steps, tox, workflow

from peft_regress.catalogue.matrix import matrix_cases, shard_of

PAGE = "".join((ROOT / "docs" / name).read_text() for name in ("ci.md", "publishing.md"))


def writes(job):
    return {name for name, access in job["permissions"].items() if access == "write"}


# --- Which code runs, and with which token --------------------------------------------------------


def test_only_the_publishing_jobs_may_write():
    assert {name: writes(job) for name, job in jobs().items() if writes(job)} == {
        ("comment", "comment"): {"pull-requests"},
        ("pages", "deploy"): {"pages", "id-token"},
        ("release", "publish"): {"id-token"},
        ("upgrade", "issue"): {"issues"},
        ("upgrade", "baseline"): {"contents", "pull-requests"},
    }


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


def test_no_checkout_stores_its_token():
    for step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_an_action_has_the_same_commit_everywhere():
    texts = [path.read_text() for path in (*WORKFLOWS, ACTION)]
    used = {
        line for text in [*texts, PAGE] for line in re.findall(r"uses: ([a-z]+/[^.\n]*@.*)", text)
    }
    assert len(used) == len({line.partition("@")[0] for line in used}) == 8
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line) for line in used)


def test_the_action_uses_no_path_of_its_own_repository():
    """In a composite action `$/` is not this repository."""
    assert not [step for step in steps()[-len(read(ACTION)["runs"]["steps"]) :]
                if step.get("uses", "").startswith(("$/", "./"))]  # fmt: skip


def actions(job):
    """Return the names of the actions that a job uses, in order."""
    return [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]


def scripts_of(job):
    return [step["run"] for step in job["steps"] if "run" in step]


WRITERS = {
    ("comment", "comment"): 'comment "$RUNNER_TEMP/drafts" --run "$RUN_ID"',
    ("upgrade", "issue"): 'issue "$RUNNER_TEMP/drafts"',
    ("upgrade", "baseline"): 'baseline "$RUNNER_TEMP/drafts"',
}
"""What each job with a token that writes runs of tools/ci/publish.py: it runs nothing else."""


@pytest.mark.parametrize("name", WRITERS, ids="-".join)
def test_a_job_that_writes_takes_only_the_drafts_of_a_job_that_cannot(name):
    job = jobs()[name]
    readers = workflow(name[0])["jobs"]["read"]
    assert job["needs"] == "read"
    assert not writes(readers)
    # No package is installed, and nothing of a run is downloaded.
    assert actions(job) == [
        "actions/checkout",
        "actions/setup-python",
        "actions/download-artifact",
    ]
    assert scripts_of(job) == [f"python tools/ci/publish.py {WRITERS[name]}"]
    download = next(step for step in job["steps"] if "download-artifact" in step.get("uses", ""))
    (kept,) = [step for step in readers["steps"] if "upload-artifact" in step.get("uses", "")]
    artifact = kept["with"]["name"].replace("${{ matrix.candidate }}", "release")
    assert download["with"]["name"].replace("${{ matrix.candidate }}", "release") == artifact
    assert download["with"]["path"] == kept["with"]["path"] == "${{ runner.temp }}/drafts"
    # Only the publishing step gets the token.
    with_token = [step for step in job["steps"] if "GH_TOKEN" in step.get("env", {})]
    assert [step["run"] for step in with_token] == scripts_of(job)
    assert "env" not in job


@pytest.mark.parametrize("name", ["comment", "upgrade"])
def test_the_files_of_a_run_are_read_without_a_token_outside_the_checkout(name):
    job = workflow(name)["jobs"]["read"]
    checkout = job["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"persist-credentials": False}  # and so the default branch
    download = next(step for step in job["steps"] if "download-artifact" in step.get("uses", ""))
    assert download["with"]["path"].startswith("${{ runner.temp }}/")
    for step in job["steps"]:
        assert "token" not in str(step.get("env", "")).lower()
    install = [
        "python tools/ci/constraints.py baselines > constraints.txt",
        "python -m pip install --constraint constraints.txt .",
    ]
    prepare = 'python tools/ci/prepare.py {} "$RUNNER_TEMP/{}" "$RUNNER_TEMP/drafts"'
    issue, baseline = (prepare.format(what, "results") for what in ("issue", "baseline"))
    texts = [prepare.format("comment", "verdict")]
    assert scripts_of(job) == (texts if name == "comment" else [issue, *install, baseline])


def test_the_commenting_workflow_knows_the_run_only_by_its_id():
    """No name that a fork chose stands in a script."""
    text = (ROOT / ".github" / "workflows" / "comment.yml").read_text()
    expressions = set(re.findall(r"\$\{\{ (.*?) \}\}", text.partition("jobs:")[2]))
    run = "github.event.workflow_run"
    assert expressions == {f"{run}.id", "github.repository", "github.token", "runner.temp"}


def test_no_script_has_an_expression_in_it():
    """A value that somebody else chose reaches a shell as a variable, never as its text."""
    for step in steps():
        assert "${{" not in step.get("run", "")


def test_the_comment_is_made_from_what_bench_keeps():
    bench = workflow("bench")
    comment = workflow("comment")
    assert comment["on"]["workflow_run"]["workflows"] == [bench["name"]]
    kept = {
        step["with"]["name"]: step
        for step in bench["jobs"]["verdict"]["steps"]
        if "upload-artifact" in step.get("uses", "")
    }
    assert kept.keys() == {"verdict", "proposed-baseline", "peft-regress.html"}
    assert all(kept[name]["if"] == "always()" for name in ("verdict", "proposed-baseline"))
    (download,) = (
        step
        for step in comment["jobs"]["read"]["steps"]
        if "download-artifact" in step.get("uses", "")
    )
    assert download["with"]["name"] == "verdict"
    assert download["continue-on-error"] is True


def test_each_gated_candidate_is_published():
    found = workflow("upgrade")["jobs"]
    gated = [entry["candidate"] for entry in found["gate"]["strategy"]["matrix"]["include"]]
    for name in ("read", "issue"):
        assert found[name]["strategy"]["matrix"]["candidate"] == gated == ["release", "main"]
        assert "github.ref == 'refs/heads/main'" in found[name]["if"]
    for name in ("issue", "baseline"):
        assert "needs.read.result == 'success'" in found[name]["if"]
    assert found["gate"]["with"]["artifact"] == "upgrade-${{ matrix.candidate }}"


def test_the_reusable_workflow_passes_every_input_to_the_action():
    """Unknown inputs are actionlint's to find; forgotten ones, and a wrong path, are not."""
    document = workflow("gate")
    inputs = set(document["on"]["workflow_call"]["inputs"])
    path = ACTION.parent.relative_to(ROOT).as_posix()
    (step,) = [s for s in document["jobs"]["gate"]["steps"] if s["uses"] == f"$/{path}"]
    assert step["with"] == {name: f"${{{{ inputs.{name} }}}}" for name in inputs}


# --- Commands -------------------------------------------------------------------------------------


TOOLS = {"prepare": prepare, "publish": publish}


@pytest.mark.parametrize(
    ("tool", "line"),
    re.findall(r"^\$ python tools/ci/(prepare|publish)\.py (.*)$", PAGE, re.MULTILINE),
)
def test_the_tools_know_each_command_of_the_page(tool, line):
    TOOLS[tool].argument_parser().parse_args(shlex.split(line, comments=True))


def test_the_tools_know_the_command_of_each_step():
    lines = [line for step in steps() for line in step.get("run", "").splitlines()]
    found = [re.fullmatch(r"python tools/ci/(prepare|publish)\.py (.*)", line) for line in lines]
    commands = [match.groups() for match in found if match]
    assert len(commands) == 2 * len(WRITERS)
    for tool, line in commands:
        TOOLS[tool].argument_parser().parse_args(shlex.split(line.replace("$RUN_ID", "12")))


@pytest.mark.parametrize("release", ["014", "015", "018", "019", "020"])
def test_tox_upgrades_to_a_release(release):
    section = tox()["testenv:bench-peft{014,015,018,019,020}"]
    version = re.search(rf"peft{release}: PEFT_VERSION = (\S+)", section["set_env"]).group(1)
    assert version.replace(".", "").startswith(release)
    line = section["commands"].strip().replace("{env:PEFT_VERSION}", version)
    line = line.replace("{toxinidir}", "/t").replace("{envname}", f"bench-peft{release}")
    command, *words = shlex.split(line.replace("{posargs}", "--cases 'shift/*'"))
    assert command == "peft-regress"
    assert words[:2] == ["upgrade", f"peft=={version}"]
    check_command(words)


def test_lint_checks_every_workflow_and_issue_form():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))
    for name, paths in (("workflows", WORKFLOWS), ("issue_forms", forms)):
        assert tox()["lint"][name].split() == [path.relative_to(ROOT).as_posix() for path in paths]


def environments():
    """Return the names of tox's environments, those of factors too."""
    found = set()
    for name in tox():
        head, brace, factors = name.removeprefix("testenv:").partition("{")
        found |= {head + factor for factor in factors.rstrip("}").split(",")} if brace else {head}
    return found


def test_every_environment_that_a_workflow_runs_exists():
    matrix = workflow("ci")["jobs"]["check"]["strategy"]["matrix"]["include"]
    named = {row["environment"] for row in matrix}
    assert named == {"lint", "types", "coverage", "slow", "edge", "docs", "lowest", *NEWER}
    text = "".join(path.read_text() for path in WORKFLOWS)
    named |= {*re.findall(r"tox run -e ([\w-]+)", text)}
    assert named <= environments()


NEWER = ("py312", "py313", "py314")


def test_the_fast_tests_run_on_every_python():
    """On 3.11 they are those of `coverage`."""
    matrix = workflow("ci")["jobs"]["check"]["strategy"]["matrix"]["include"]
    pythons = {row["environment"]: row["python"] for row in matrix}
    for name in NEWER:
        assert pythons.pop(name) == f"3.{name[3:]}"
    assert set(pythons.values()) == {"3.11"}


def test_the_lowest_torch_is_the_one_that_the_package_admits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    admitted = {
        one.name: str(one.specifier)
        for one in map(Requirement, project["dependencies"])
        if one.name in {"torch", "torchvision"}
    }
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    lowest = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {one.name for one in lowest} == admitted.keys()
    for one in lowest:
        (pin,) = one.specifier
        assert pin.operator == "=="
        (bound,) = re.findall(r">=([\d.]+)", admitted[one.name])
        assert pin.version.startswith(f"{bound}.")
    assert "tests/lowest.txt" in tox()["testenv:lowest"]["set_env"]


WITHOUT_TORCH = {"lint", "docs"}
"""Environments of ci.yml without torch: they install little."""
WITHOUT_CACHE = {
    ("bench", "verdict"): "the pull request's code may have written it",
    ("upgrade", "read"): "the candidate may have written it",
    ("pages", "build"): "it builds what is published",
    ("release", "build"): "it builds what is published",
}
"""Jobs that install torch and must take no cache, with the reason."""


def setup(job):
    (step,) = [step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-p")]
    return step["with"]


def installs_torch(job):
    """Whether a job installs this project, by itself or by tox."""
    return any(
        re.search(
            r"tox run|pip install (.* )?(\.|\S+\.whl)($| )", step.get("run", ""), re.MULTILINE
        )
        for step in job.get("steps", [])
    )


def test_every_job_that_installs_torch_keeps_the_downloads_but_those_that_judge_or_publish():
    found = {name: setup(job) for name, job in jobs().items() if installs_torch(job)}
    assert found.keys() > WITHOUT_CACHE.keys()
    for name, inputs in found.items():
        if name in WITHOUT_CACHE:
            assert "cache" not in inputs
        elif name != ("ci", "check"):
            assert inputs["cache"] == "pip"
            assert inputs["cache-dependency-path"] == "pyproject.toml"
    assert not any(installs_torch(job) for job in jobs().values() if writes(job))
    # The action's job has what its candidate may write, and keeps it unless asked not to.
    assert read(ACTION)["inputs"]["cache"]["default"] == "pip"


def test_a_cache_of_another_torch_or_of_none_has_another_name():
    """The first job that ends saves the cache under the name that its file gives."""
    inputs = setup(workflow("ci")["jobs"]["check"])
    assert inputs["cache"] == "${{ matrix.pins && 'pip' || '' }}"
    assert inputs["cache-dependency-path"] == "${{ matrix.pins }}"
    for row in workflow("ci")["jobs"]["check"]["strategy"]["matrix"]["include"]:
        name = row["environment"]
        lowest = "tests/lowest.txt" if name == "lowest" else "pyproject.toml"
        assert row.get("pins") == (None if name in WITHOUT_TORCH else lowest)


def test_pre_commit_runs_the_commands_of_tox():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands = {
        stage: [hook["entry"] for hook in hooks if hook.get("stages", ["pre-commit"]) == [stage]]
        for stage in ("pre-commit", "pre-push")
    }
    lint, types = (tox()[f"testenv:{name}"]["commands"].strip() for name in ("lint", "types"))
    # pre-commit passes the workflows itself.
    lint = lint.replace("{posargs:.}", ".")
    lint = re.sub(r" \{\[lint\]\w+\}", "", lint)
    assert commands["pre-commit"] == lint.splitlines()
    assert commands["pre-push"] == [
        types.replace("{posargs:peft_regress tools}", "peft_regress tools")
    ]


def test_a_pull_request_is_judged_by_the_code_of_its_base():
    judge, baselines, *_ = workflow("bench")["jobs"]["verdict"]["steps"]
    assert judge["with"]["ref"] == "${{ github.event.pull_request.base.sha || github.sha }}"
    assert baselines["with"]["sparse-checkout"] == "baselines"
    assert "baselines" not in bench_step("verdict", "Install the command")["run"]


def test_the_last_step_of_the_local_run_judges_the_saved_run():
    """In a process of its own: it wants the file that was absent before."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    saved = re.search(r"--regress-save=(\S+)", "\n".join(lines))[1]
    steps = [line for line in lines if saved in line]
    assert steps[0] == f"rm -f {saved}"
    assert steps[1].startswith("step bench pytest ")
    words = shlex.split(steps[2])
    assert words[:3] == ["step", "verdict", "peft-regress"]
    assert check_command(words[3:])["new"] == saved


# --- The gate in shards ---------------------------------------------------------------------------


def bench_step(job, name):
    (step,) = [s for s in workflow("bench")["jobs"][job]["steps"] if s["name"] == name]
    return step


def test_there_is_one_shard_per_architecture():
    shards = workflow("bench")["jobs"]["shard"]["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1))
    assert f"/{len(shards)}" in bench_step("shard", "Measure")["run"]
    cases = matrix_cases("default")
    assert len({case.architecture for case in cases}) == len(shards)
    assert set(shard_of(cases, count=len(shards), weights={}).values()) == set(shards)


JUDGE = "Judge the shards as one run"


def test_the_judging_step_proposes_what_it_saved():
    (line,) = [
        line
        for line in bench_step("verdict", JUDGE)["run"].splitlines()
        if line.startswith("peft-regress ")
    ]
    words = shlex.split(line.partition(" > ")[0])[1:]
    chosen = check_command(words)
    assert (chosen["old"], chosen["new"]) == ("proposed/baselines", "shards")
    assert chosen["strict"]
    assert chosen["stored_only"]
    proposed = bench_step("verdict", "Propose the run as a baseline")["with"]["path"].split()
    assert proposed == [str(chosen["save"]), "run.adapters"]


# --- The page -------------------------------------------------------------------------------------


def test_a_red_run_has_a_page_too_and_the_summary_links_it():
    found = {step["name"]: step for step in workflow("bench")["jobs"]["verdict"]["steps"]}
    saved = "${{ !cancelled() && steps.judge.outputs.saved == 'true' }}"
    assert found[JUDGE]["id"] == "judge"
    assert found["Make the page"]["if"] == saved
    kept = found["Keep the page"]
    assert kept["with"]["path"] in found["Make the page"]["run"]
    assert found["Link the page"]["env"] == {"PAGE": "${{ steps.kept.outputs.artifact-url }}"}
    conditions = {name: found[name]["if"] for name in ("Keep the page", "Link the page")}
    for name, step in (("Keep the page", "page"), ("Link the page", "kept")):
        assert conditions[name] == f"${{{{ !cancelled() && steps.{step}.outcome == 'success' }}}}"
    assert (found["Make the page"]["id"], kept["id"]) == ("page", "kept")
    # What it adds comes after the artifacts from which others go on.
    assert list(found)[-3:] == ["Make the page", "Keep the page", "Link the page"]


def test_the_site_is_that_of_main_s_own_run_and_nothing_of_it_is_executed():
    pages = workflow("pages")
    assert pages["on"] == {
        "workflow_run": {"workflows": ["bench"], "types": ["completed"], "branches": ["main"]}
    }
    build, deploy = pages["jobs"]["build"], pages["jobs"]["deploy"]
    assert build["if"].startswith("github.event.workflow_run.event != 'pull_request' && ")
    assert build["steps"][0]["with"] == {"persist-credentials": False}  # so the default branch
    (download,) = [one for one in build["steps"] if "download-artifact" in one.get("uses", "")]
    assert download["continue-on-error"] is True
    assert download["with"]["path"] == "${{ runner.temp }}/run"
    kept = [
        step["with"]["name"]
        for step in workflow("bench")["jobs"]["verdict"]["steps"]
        if "upload-artifact" in step.get("uses", "")
    ]
    assert download["with"]["name"] in kept
    assert deploy["needs"] == "build"
    assert actions(deploy) == ["actions/configure-pages", "actions/deploy-pages"]
    assert not scripts_of(deploy)
    assert pages["concurrency"] == {"group": "pages", "cancel-in-progress": False}


def test_the_site_has_the_badge_and_the_page_of_main():
    site = " ".join(step.get("run", "") for step in workflow("pages")["jobs"]["build"]["steps"])
    assert "site/badge.json" in site
    assert "site/main/index.html" in site
    # Not report/, which would be one letter from report.html, a page of a run.
    assert not [*(ROOT / "docs").glob("main.md"), *(ROOT / "docs").glob("main/*.md")]


# --- The release ----------------------------------------------------------------------------------


def test_what_is_published_is_what_a_job_without_a_secret_built_and_tried():
    build, publish_job = workflow("release")["jobs"].values()
    assert not writes(build)
    assert "environment" not in build
    assert actions(build)[-1] == "actions/upload-artifact"
    assert [step["name"] for step in build["steps"] if "run" in step] == [
        "Check the tag",
        "Build",
        "Check the distributions",
        "Try the wheel in a clean environment",
    ]
    assert publish_job["needs"] == "build"
    assert publish_job["environment"]["name"] == "pypi"
    assert actions(publish_job) == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert not scripts_of(publish_job)
    given = publish_job["steps"][-1]["with"]
    assert given == {"attestations": True}  # and no password


def test_no_workflow_has_a_secret():
    for path in (*WORKFLOWS, ACTION):
        assert "secrets." not in path.read_text()


# --- Dependabot -----------------------------------------------------------------------------------


def test_dependabot_updates_every_pin_and_a_workflow_gates_the_new_ones():
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    watched = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories") or [update["directory"]]
    }
    assert watched == {
        *(("pip", "/"), ("pip", "/.github/gated")),
        *(("github-actions", "/"), ("github-actions", "/.github/actions/gate")),
    }
    bump = workflow("bump")
    gated = bump["jobs"]["gate"]["with"]["requirements-file"]
    assert bump["on"]["pull_request"]["paths"] == [gated] == [".github/gated/requirements.txt"]
    lines = (ROOT / gated).read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {pin.name for pin in pins} == {"peft", "galore-torch", "torch", "torchvision"}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
