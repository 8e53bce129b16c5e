"""What pip is asked, what it is not told, and what is said where it fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkouts import write_checkout
from package_index import served_index, unused_url, use_index, write_wheel
from packaging.version import Version

from peft_regress.environments.overlay import pip
from peft_regress.environments.overlay.pip import (
    PipError,
    Planned,
    build_wheel,
    install,
    plan,
    released_versions,
)
from peft_regress.environments.overlay.pip_errors import problem_in
from peft_regress.errors import InputError


@pytest.fixture(scope="module")
def served():
    with served_index() as index:
        index.add("candy", "1.0").add("candy", "1.1", requires=["sugar>=1"])
        index.add("candy", "1.2", yanked="too sweet").add("candy", "2.0b1").add("sugar", "1.5")
        index.add("oldpy", "1.0", requires_python="<3")
        index.add("bitter", "1.0", requires=["sugar<1"]).add("sugar", "0.9")
        index.add_failing_sdist("failing", "1.0")
        yield index


@pytest.fixture
def index(served, monkeypatch, tmp_path):
    use_index(monkeypatch, served.url, tmp_path)
    served.requests.clear()
    return served


def names_of(planned):
    return [(one.name, one.version) for one in planned]


def test_a_plan_has_what_is_needed_too_and_downloads_nothing(index):
    planned = plan(["candy==1.1"])

    assert names_of(planned) == [("candy", "1.1"), ("sugar", "1.5")]
    assert all(one.digest for one in planned)
    assert index.downloads() == []


def test_what_is_installed_and_fits_is_no_part_of_a_plan(index):
    assert plan(["packaging"]) == ()
    assert index.requests == []


def test_a_yanked_release_is_planned_only_where_it_is_pinned_and_said(index):
    (pinned,) = plan(["candy==1.2"])
    loose = plan(["candy"])

    assert pinned.is_yanked
    assert ("candy", "1.1") in names_of(loose)
    assert not any(one.is_yanked for one in loose)


def test_releases_are_without_yanked_ones_and_with_pre_releases_on_request(index):
    assert released_versions("candy") == [Version("1.0"), Version("1.1")]
    assert released_versions("candy", pre=True)[-1] == Version("2.0b1")


@pytest.mark.parametrize("package", ["nosuch", "", "--help"])
def test_what_is_no_package_of_the_index_has_no_releases(index, package):
    with pytest.raises(PipError):
        released_versions(package)


@pytest.mark.parametrize(
    ("requirement", "said", "remedy"),
    [
        ("nosuch==1", "requirement nosuch==1 (from versions: none)", "PIP_INDEX_URL"),
        ("candy==7", "(from versions: 1.0, 1.1, 2.0b1)", "pip index versions"),
        ("oldpy==1.0", "1.0 Requires-Python <3", "another Python"),
        ("failing==1.0", "RuntimeError: no compiler was found", "a release that has a wheel"),
    ],
)
def test_a_failure_is_one_line_with_what_pip_said_and_a_remedy(index, requirement, said, remedy):
    with pytest.raises(PipError) as caught:
        plan([requirement, "packaging"], what=requirement)

    message = str(caught.value)
    assert message.startswith(f"{requirement}: ")
    assert said in message
    assert remedy in message
    assert "packaging" not in message
    assert "\n" not in message
    assert len(message) < 600


def test_a_conflict_says_who_wants_what(index):
    with pytest.raises(PipError, match=r"bitter 1\.0 depends on sugar<1"):
        plan(["bitter==1.0", "sugar==1.5"])


def test_an_index_that_cannot_be_reached_is_said(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", unused_url())

    for ask in (lambda: plan(["candy==1.0"]), lambda: released_versions("candy")):
        with pytest.raises(
            PipError, match=r"candy.*The index cannot be reached: check the network"
        ):
            ask()


def test_an_index_that_does_not_answer_is_given_up(index, monkeypatch):
    monkeypatch.setattr(index, "hangs_at", "/candy/")
    begun = time.monotonic()

    with pytest.raises(PipError, match=r"candy==1\.0: pip gave no answer within 1\.5 s.*limit"):
        plan(["candy==1.0"], seconds=1.5)

    assert time.monotonic() - begun < 10


def test_a_folder_that_does_not_build_is_said(index, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").write_text("[build-system\n")

    with pytest.raises(PipError, match=r"checkout: .*TOMLDecodeError"):
        build_wheel(checkout, into=tmp_path / "wheels")


# Of a repository.


def git(folder, *arguments):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder, text):
    (folder / "part" / "candy.py").write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "change")
    return git(folder, "rev-parse", "HEAD")


def test_a_branch_is_planned_as_its_commit_with_the_folder_in_it(index, tmp_path):
    repository = tmp_path / "repository"
    write_checkout(repository / "part", "candy", "9.0")
    git(repository, "init", "-q", "-b", "main")
    first = commit(repository, "x = 1\n")
    requirement = f"candy @ git+{repository.as_uri()}@main#subdirectory=part"

    (before,) = plan([requirement])
    second = commit(repository, "x = 2\n")
    (after,) = plan([requirement])

    place = f"candy @ git+{repository.as_uri()}"
    assert before.source == f"{place}@{first}#subdirectory=part"
    assert after.source == f"{place}@{second}#subdirectory=part"
    assert after.is_direct


@pytest.mark.parametrize(
    ("revision", "said"),
    [("", "does not appear to be a git repository"), ("@nosuch", "nosuch")],
)
def test_a_repository_or_revision_that_is_not_there_is_said(index, tmp_path, revision, said):
    repository = tmp_path / "repository"
    if revision:
        write_checkout(repository / "part", "candy", "9.0")
        git(repository, "init", "-q", "-b", "main")
        commit(repository, "x = 1\n")

    with pytest.raises(PipError) as caught:
        plan([f"candy @ git+{repository.as_uri()}{revision}"], what="candy")

    problem = caught.value.problem.rpartition("; ")[2]
    assert problem.startswith(("fatal: ", "error: "))
    assert said in problem
    assert "git ls-remote" in str(caught.value)


# What a shell or a configuration says.


@pytest.mark.parametrize(
    "variable",
    ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN", "PIP_NO_DEPS"],
)
def test_pip_is_not_told_where_to_install_to_by_the_shell(monkeypatch, tmp_path, variable):
    echo = tmp_path / "python"
    echo.write_text("#!/bin/sh\nenv\n")
    echo.chmod(0o755)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost/simple")

    told = pip._run(["install"], what="x", seconds=10, python=echo).splitlines()

    assert not any(line.startswith(f"{variable}=") for line in told)
    assert "PIP_USER=0" in told
    assert "PIP_INDEX_URL=http://localhost/simple" in told


@pytest.mark.parametrize("option", ["target", "prefix", "root"])
def test_a_configuration_that_installs_to_another_place_is_refused(
    index, monkeypatch, tmp_path, option
):
    other = tmp_path / "other"
    (tmp_path / "pip.conf").write_text(f"[install]\n{option} = {other}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))

    with pytest.raises(PipError, match=rf"install\.{option}: .*config unset install\.{option}"):
        install(Path(sys.executable), [Planned(name="candy", version="1.0", source="candy==1.0")])

    assert not other.exists()


def test_a_pip_in_the_working_directory_is_not_run(index, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)

    assert names_of(plan(["candy==1.0"])) == [("candy", "1.0")]


def test_an_interpreter_without_pip_is_told_how_to_get_it(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)

    with pytest.raises(PipError, match=r"No module named pip.*ensurepip"):
        pip._run(["check"], what="x", seconds=10, python=bare)


def test_an_install_is_without_what_was_not_planned_and_of_the_planned_bytes(
    index, monkeypatch, tmp_path
):
    wanted = []
    monkeypatch.setattr(
        pip,
        "_call",
        lambda python, arguments, **_: (
            wanted.append((arguments, [Path(a).read_text() for a in arguments if "/" in a])),
            subprocess.CompletedProcess([], 0, "", ""),
        )[1],
    )
    wheel = write_wheel(tmp_path, "sugar", "2.0")
    direct = f"sugar @ {wheel.as_uri()}"

    install(
        Path("python"),
        [
            Planned(name="candy", version="1.1", source="candy==1.1", digest="12"),
            Planned(name="sugar", version="2.0", source=direct, digest="34"),
        ],
    )

    calls = [call for call in wanted if call[0][0] == "install"]
    assert [files for _, files in calls] == [["candy==1.1 --hash=sha256:12\n"], [f"{direct}\n"]]
    assert all("--no-deps" in arguments for arguments, _ in calls)


def test_what_pip_says_is_one_line_however_much_it_is():
    said = "ERROR: first\x1b[31m\nERROR: " + "x" * 5000 + "\nERROR: ResolutionImpossible: see\n"

    assert problem_in(said).startswith("first")
    assert len(problem_in(said)) < 500
    assert problem_in(said).isprintable()
    assert problem_in("") == "pip failed and said nothing"


def test_a_pip_error_is_bad_input():
    assert issubclass(PipError, InputError)
