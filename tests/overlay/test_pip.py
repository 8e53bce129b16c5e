"""How pip is called, which settings it does not get, and how its failures are shown."""

from pathlib import Path

import pytest
from checkouts import write_checkout
from fake_interpreters import write_program
from git_shell import run_in
from package_index import unused_url, write_wheel
from packaging.version import Version

from peft_regress.overlay import pip
from peft_regress.overlay.pip import PipError, Planned, build_wheel, install, plan
from peft_regress.overlay.pip import released_versions as released
from peft_regress.project.settings import Pip, read_settings


def test_a_plan_has_what_is_needed_too_and_downloads_nothing(index):
    assert plan(["packaging"], Pip()) == ()  # installed, and it fits
    assert index.requests == []
    planned = plan(["candy==1.1"], Pip())
    assert [(one.name, one.version) for one in planned] == [("candy", "1.1"), ("sugar", "1.5")]
    assert all(one.digest for one in planned)
    # A yanked release is planned only if it is pinned.
    assert plan(["candy"], Pip()) == planned
    (pinned,) = plan(["candy==1.2"], Pip())
    assert pinned.is_yanked
    assert index.downloads() == []


@pytest.mark.slow
def test_releases_are_without_yanked_ones_and_with_pre_releases_on_request(index):
    assert released("candy", Pip()) == [Version("1.0"), Version("1.1")]
    assert released("candy", Pip(pre=True))[-1] == Version("2.0b1")
    for package in ("nosuch", "--help"):
        with pytest.raises(PipError):
            released(package, Pip())


@pytest.mark.parametrize(
    ("requirements", "said"),
    [
        (["candy==7"], "(from versions: 1.0, 1.1, 2.0b1)"),
        (["failing==1.0"], "'failing'"),
        pytest.param(["oldpy==1.0"], "1.0 Requires-Python <3", marks=pytest.mark.nightly),
        (["bitter==1.0", "sugar==1.5"], "Cannot install bitter==1.0 and sugar==1.5 because"),
    ],
)
def test_a_failure_is_one_line_with_pips_own_errors(index, requirements, said):
    with pytest.raises(PipError) as caught:
        plan([*requirements, "packaging"], Pip(), what="this")
    message = str(caught.value)
    assert message.startswith("this: ")
    assert said in message
    assert message.isprintable()
    assert len(message) < 900


def test_an_index_that_cannot_be_reached_is_named(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", unused_url())
    for ask in (lambda: plan(["candy==1.0"], Pip()), lambda: released("candy", Pip())):
        with pytest.raises(PipError, match=r"candy.*The index cannot be reached: check the net"):
            ask()


@pytest.mark.parametrize(
    "variable", [pytest.param("PIP_FIND_LINKS", marks=pytest.mark.slow), "PIP_EXTRA_INDEX_URL"]
)
def test_what_another_place_has_is_not_the_newest_if_the_index_gives_no_answer(
    index, monkeypatch, tmp_path, variable
):
    write_wheel(tmp_path, "candy", "0.9")
    monkeypatch.setenv(variable, str(tmp_path) if "LINKS" in variable else index.url)
    found = [Version("0.9")] if "LINKS" in variable else []
    assert released("candy", Pip()) == [*found, Version("1.0"), Version("1.1")]
    monkeypatch.setenv("PIP_INDEX_URL", unused_url())
    with pytest.raises(PipError, match=r"candy: its newest .*127.* gave no answer \(conn"):
        released("candy", Pip())


def test_an_index_that_does_not_answer_is_given_up(index, monkeypatch, tmp_path):
    monkeypatch.setattr(index, "hangs_at", "/candy/")
    (tmp_path / "pyproject.toml").write_text("[tool.peft_regress]\npip_time_limit = 0.5\n")
    limited = read_settings(tmp_path).pip
    error = r"candy==1\.0: pip gave no answer within 0\.5 s.*index.*pip_time_limit"
    with pytest.raises(PipError, match=error):
        plan(["candy==1.0"], limited)


def test_a_checkout_that_does_not_build_is_an_error(index, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[build-system\n")
    with pytest.raises(PipError, match=str(tmp_path)):
        build_wheel(tmp_path, Pip(), into=tmp_path / "wheels")


@pytest.mark.slow
def test_a_branch_is_planned_as_its_commit_with_the_folder_in_it(index, tmp_path):
    write_checkout(tmp_path / "part", "candy", "9.0")
    commit = "git init -q; git add -A; git commit -qm change; git rev-parse HEAD"
    revision = run_in(tmp_path, commit).strip()
    url = f"candy @ git+{tmp_path.as_uri()}"
    (planned,) = plan([f"{url}@main#subdirectory=part"], Pip())
    assert planned.source == f"{url}@{revision}#subdirectory=part"
    assert planned.is_direct
    with pytest.raises(PipError, match=r"nosuch|git"):
        plan([f"{url}@nosuch"], Pip())


@pytest.mark.parametrize("variable", ["PIP_TARGET", "PIP_PREFIX", "PIP_DRY_RUN", "PIP_NO_DEPS"])
def test_a_shell_cannot_redirect_installations(monkeypatch, tmp_path, variable):
    echo = write_program(tmp_path / "python", "#!/bin/sh\nenv\n")
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost/simple")
    variables = pip._run(["install"], Pip(), what="x", python=echo).splitlines()
    assert not any(line.startswith(f"{variable}=") for line in variables)
    assert "PIP_USER=0" in variables
    assert "PIP_INDEX_URL=http://localhost/simple" in variables


def test_a_pip_in_the_working_directory_is_not_run(monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("raise SystemExit('not this one')\n")
    monkeypatch.chdir(tmp_path)
    assert pip._run(["--version"], Pip(), what="x").startswith("pip ")


def test_an_environment_without_pip_is_told_how_to_install_it(tmp_path):
    script = "#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n"
    bare = write_program(tmp_path / "python", script)
    with pytest.raises(PipError, match=r"No module named pip.*`python -m ensurepip`"):
        pip._run(["check"], Pip(), what="x", python=bare)


def test_only_what_was_planned_is_installed_and_with_the_planned_digest(monkeypatch, tmp_path):
    wanted = []

    def run(arguments, *_, **__):
        wanted.append((arguments, Path(arguments[-1]).read_text()))

    monkeypatch.setattr(pip, "_run", run)
    direct = f"sugar @ {write_wheel(tmp_path, 'sugar', '2.0').as_uri()}"
    install(
        Path("python"),
        [
            Planned(name="candy", version="1.1", source="candy==1.1", digest="12"),
            Planned(name="sugar", version="2.0", source=direct, digest="34"),
        ],
        Pip(),
    )
    assert [text for _, text in wanted] == ["candy==1.1 --hash=sha256:12\n", f"{direct}\n"]
    assert all("--no-deps" in arguments for arguments, _ in wanted)
