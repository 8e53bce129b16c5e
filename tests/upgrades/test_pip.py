"""How pip is called, which settings it does not get, and how its failures are explained."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from checkouts import write_checkout
from package_index import unused_url, write_wheel
from packaging.version import Version

from peft_regress.errors import InputError
from peft_regress.overlay import pip
from peft_regress.overlay.pip import (
    PipError,
    Planned,
    SilentIndexError,
    build_wheel,
    install,
    plan,
    problem_in,
    released_versions,
)


def names_of(planned):
    return [(one.name, one.version) for one in planned]


def test_a_plan_has_what_is_needed_too_and_downloads_nothing(index):
    planned = plan(["candy==1.1"])

    assert names_of(planned) == [("candy", "1.1"), ("sugar", "1.5")]
    assert all(one.digest for one in planned)
    assert index.downloads() == []


def test_an_installed_package_that_fits_is_not_planned(index):
    assert plan(["packaging"]) == ()
    assert index.requests == []


def test_a_yanked_release_is_planned_only_if_it_is_pinned(index):
    (pinned,) = plan(["candy==1.2"])
    loose = plan(["candy"])

    assert pinned.is_yanked
    assert ("candy", "1.1") in names_of(loose)
    assert not any(one.is_yanked for one in loose)


def test_releases_are_without_yanked_ones_and_with_pre_releases_on_request(index):
    assert released_versions("candy") == [Version("1.0"), Version("1.1")]
    assert released_versions("candy", pre=True)[-1] == Version("2.0b1")


@pytest.mark.parametrize("package", ["nosuch", "--help"])
def test_a_name_that_the_index_lacks_has_no_releases(index, package):
    with pytest.raises(PipError):
        released_versions(package)


@pytest.mark.parametrize(
    ("requirement", "said", "remedy"),
    [
        ("candy==7", "(from versions: 1.0, 1.1, 2.0b1)", "pip index versions"),
        ("oldpy==1.0", "1.0 Requires-Python <3", "another Python"),
        ("failing==1.0", "RuntimeError: no compiler was found", "a release that has a wheel"),
    ],
)
def test_a_failure_is_one_line_with_pips_message_and_a_remedy(index, requirement, said, remedy):
    with pytest.raises(PipError) as caught:
        plan([requirement, "packaging"], what=requirement)

    message = str(caught.value)
    assert message.startswith(f"{requirement}: ")
    assert said in message
    assert remedy in message
    assert "packaging" not in message
    assert "\n" not in message
    assert len(message) < 600


def test_a_conflict_names_the_packages(index):
    with pytest.raises(PipError, match=r"bitter 1\.0 depends on sugar<1"):
        plan(["bitter==1.0", "sugar==1.5"])


def test_an_index_that_cannot_be_reached_is_named(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", unused_url())

    for ask in (lambda: plan(["candy==1.0"]), lambda: released_versions("candy")):
        with pytest.raises(
            PipError, match=r"candy.*The index cannot be reached: check the network"
        ):
            ask()


@pytest.mark.parametrize("variable", ["PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"])
def test_what_another_place_has_is_not_the_newest_if_the_index_gives_no_answer(
    index, monkeypatch, tmp_path, variable
):
    write_wheel(tmp_path, "candy", "0.9")
    monkeypatch.setenv(variable, str(tmp_path) if "LINKS" in variable else index.url)
    found = [Version("0.9")] if "LINKS" in variable else []
    assert released_versions("candy") == [*found, Version("1.0"), Version("1.1")]
    monkeypatch.setenv("PIP_INDEX_URL", unused_url())
    with pytest.raises(SilentIndexError, match=r"candy: its newest .*127.* gave no answer \(conn"):
        released_versions("candy")


def test_an_index_without_the_package_is_an_answer(index, monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.url.replace("simple", "empty"))
    assert released_versions("candy") == [Version("1.0"), Version("1.1")]


def test_an_index_that_does_not_answer_is_given_up(index, monkeypatch):
    monkeypatch.setattr(index, "hangs_at", "/candy/")

    with pytest.raises(PipError, match=r"candy==1\.0: pip gave no answer within 0\.5 s.*limit"):
        plan(["candy==1.0"], seconds=0.5)


def test_a_checkout_that_does_not_build_is_explained(index, tmp_path):
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
    revision = commit(repository, "x = 1\n")
    url = f"candy @ git+{repository.as_uri()}"

    (planned,) = plan([f"{url}@main#subdirectory=part"])

    assert planned.source == f"{url}@{revision}#subdirectory=part"
    assert planned.is_direct


def test_a_revision_that_does_not_exist_is_explained(index, tmp_path):
    repository = tmp_path / "repository"
    write_checkout(repository / "part", "candy", "9.0")
    git(repository, "init", "-q", "-b", "main")
    commit(repository, "x = 1\n")

    with pytest.raises(PipError) as caught:
        plan([f"candy @ git+{repository.as_uri()}@nosuch"], what="candy")

    problem = caught.value.problem.rpartition("; ")[2]
    assert problem.startswith("error: ")
    assert "nosuch" in problem
    assert "git ls-remote" in str(caught.value)


def test_a_repository_that_does_not_exist_is_explained():
    output = """
  Running command git clone --filter=blob:none --quiet file:///nowhere /tmp/pip-install/candy
  fatal: '/nowhere' does not appear to be a git repository
  fatal: Could not read from remote repository.
  error: subprocess-exited-with-error
"""

    assert problem_in(output).endswith("fatal: '/nowhere' does not appear to be a git repository")


# Settings of a shell or a configuration file.


@pytest.mark.parametrize(
    "variable",
    ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN", "PIP_NO_DEPS"],
)
def test_a_shell_cannot_redirect_installations(monkeypatch, tmp_path, variable):
    echo = tmp_path / "python"
    echo.write_text("#!/bin/sh\nenv\n")
    echo.chmod(0o755)
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost/simple")

    variables = pip._run(["install"], what="x", seconds=600, python=echo).splitlines()

    assert not any(line.startswith(f"{variable}=") for line in variables)
    assert "PIP_USER=0" in variables
    assert "PIP_INDEX_URL=http://localhost/simple" in variables


@pytest.mark.parametrize("option", ["target", "prefix", "root"])
@pytest.mark.parametrize("section", ["install", "global"])
def test_a_configuration_that_redirects_installations_is_refused(tmp_path, section, option):
    setting = f"{section}.{option}"
    pip_config = tmp_path / "python"
    pip_config.write_text(f"#!/bin/sh\necho \"install.user='1'\"; echo \"{setting}='/x'\"\n")
    pip_config.chmod(0o755)

    with pytest.raises(PipError, match=rf"{setting}: .*config unset {setting}"):
        install(pip_config, [Planned(name="candy", version="1.0", source="candy==1.0")])


def test_a_pip_in_the_working_directory_is_not_run(monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)

    assert pip._run(["--version"], what="x", seconds=600).startswith("pip ")


def test_an_interpreter_without_pip_gets_a_remedy(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)

    with pytest.raises(PipError, match=r"No module named pip.*ensurepip"):
        pip._run(["check"], what="x", seconds=600, python=bare)


def test_only_what_was_planned_is_installed_and_with_the_planned_digest(
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


def test_a_long_output_becomes_one_line():
    said = "ERROR: first\x1b[31m\nERROR: " + "x" * 5000 + "\nERROR: ResolutionImpossible: see\n"

    assert problem_in(said).startswith("first")
    assert len(problem_in(said)) < 500
    assert problem_in(said).isprintable()
    assert problem_in("") == "pip failed without a message"


def test_a_pip_error_is_bad_input():
    assert issubclass(PipError, InputError)
