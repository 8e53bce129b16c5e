"""How the requirements that a user types are read, and which known constraints they need."""

from __future__ import annotations

import zipfile

import pytest
from checkouts import write_checkout
from package_index import use_index, write_wheel

from peft_regress.errors import InputError
from peft_regress.overlay import requirements
from peft_regress.overlay.pip import Planned
from peft_regress.overlay.requirements import (
    Wanted,
    constraints_for,
    read_requirements,
)


@pytest.fixture
def read(tmp_path):
    def call(*texts, pre=False):
        return read_requirements(texts, scratch=tmp_path / "scratch", seconds=60, pre=pre)

    return call


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("pip was asked")

    monkeypatch.setattr(requirements, "released_versions", refuse)
    monkeypatch.setattr(requirements, "build_wheel", refuse)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\t",
        "peft=0.1",
        "peft==",
        "peft==0.1 galore-torch==1.0",
        "pe\0ft==0.1",
        "peft==0.1\n--index-url http://evil",
        "peft @ https://localhost/x.whl\n--index-url http://evil",
        "peft==0.1\x1b[31m",
        "peft==0.1\udcff",
        "peft @ https://localhost/\udcff",
        "peft @ https://localhost/\x1b[31m",
        "--index-url http://evil",
        "-r requirements.txt",
        "-e .",
        "peft; python_version<'3'",
        "peft==0.1; extra == 'test'",
        "peft[==0.1",
        "peft @ ",
        "git+https://localhost/peft",
        "x" * 5000 + ".whl",
        "/" + "x" * 5000,
        "/nosuch/folder",
        "./nosuch.whl",
        "nosuch.whl",
        "~nosuchuser/peft",
        "/dev/null",
    ],
)
def test_a_text_that_is_no_requirement_is_refused_in_one_line(read, no_pip, text):
    with pytest.raises(InputError) as caught:
        read(text)

    assert str(caught.value).isprintable()


def test_a_folder_that_is_no_checkout_is_refused(read, no_pip, tmp_path):
    with pytest.raises(InputError, match=r"no pyproject\.toml and no setup\.py"):
        read(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_a_wheel_that_is_no_zip_is_refused(read, no_pip, tmp_path, content):
    file = tmp_path / "candy-1.0-py3-none-any.whl"
    file.write_bytes(content)

    with pytest.raises(InputError, match="not a wheel that pip could install"):
        read(str(file))


def test_a_zip_with_another_name_than_a_wheels_is_refused(read, no_pip, tmp_path):
    with zipfile.ZipFile(tmp_path / "candy.whl", "w") as archive:
        archive.writestr("candy.py", "")

    with pytest.raises(InputError, match="not a wheel that pip could install"):
        read(str(tmp_path / "candy.whl"))


@pytest.mark.parametrize("other", ["galore_torch==1.1", "GaLore.Torch==1.0", "galore-torch[x]>=1"])
def test_a_package_is_named_once_however_it_is_spelt(read, no_pip, other):
    with pytest.raises(InputError, match="galore-torch is required twice"):
        read("galore-torch==1.0", other)


def test_a_pinned_release_is_taken_as_it_is(read, no_pip):
    (found,) = read("Galore_Torch[extra] == 1.0 ; python_version > '3'")

    assert found.name == "galore-torch"
    assert found.identity == found.text
    assert found.text.startswith("Galore_Torch[extra] == 1.0")


@pytest.mark.parametrize(
    "text",
    [
        "peft>=0.14",
        "peft==0.14.*",
        "peft>=0.14,==0.15",
        "peft @ git+https://localhost/peft@main",
        "peft @ https://localhost/peft-1.0-py3-none-any.whl",
    ],
)
def test_a_requirement_whose_files_may_change_has_no_identity(read, no_pip, text):
    (found,) = read(text)

    assert found.identity is None


def test_a_commit_is_identified_by_its_text(read, no_pip):
    (found,) = read(f"peft @ git+https://localhost/peft@{'0a' * 20}#subdirectory=x")

    assert found.identity is not None


def test_a_name_without_a_version_is_its_newest_release(read, monkeypatch):
    def released(_, *, pre, seconds):
        return ["1.9", "1.10", *(["2.0b1"] if pre else [])]

    monkeypatch.setattr(requirements, "released_versions", released)

    assert [one.text for one in read("candy")] == ["candy==1.10"]
    assert [one.text for one in read("candy[x]", pre=True)] == ["candy[x]==2.0b1"]


def test_the_bare_name_of_a_folder_here_is_the_package(read, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_checkout(tmp_path / "candy", "candy", "1.0")
    monkeypatch.setattr(requirements, "released_versions", lambda *_, **__: ["7.0"])

    assert [one.text for one in read("candy")] == ["candy==7.0"]


# Wheels and checkouts are identified by their content.


def test_a_wheel_is_the_same_wherever_it_lies_and_however_it_is_named(
    read, no_pip, monkeypatch, tmp_path
):
    wheel = write_wheel(tmp_path / "a folder #1", "candy", "1.0")
    copy = write_wheel(tmp_path / "other", "candy", "1.0")
    changed = write_wheel(tmp_path / "changed", "candy", "1.0", source="x = 1")
    monkeypatch.chdir(tmp_path)
    named = [
        str(wheel),
        f"a folder #1/{wheel.name}",
        f"./a folder #1/{wheel.name}",
        f"candy @ {wheel.as_uri()}",
        f"candy@{wheel.as_uri()}",
        str(copy),
    ]

    found = [read(text)[0] for text in named]
    other = read(str(changed))[0]

    assert {one.identity for one in found} == {found[0].identity}
    assert [one.text for one in found[:-1]] == [f"candy @ {wheel.as_uri()}"] * 5
    assert [one.shown for one in found] == named
    assert other.identity != found[0].identity


def test_a_wheel_under_another_packages_name_is_refused(read, no_pip, tmp_path):
    wheel = write_wheel(tmp_path, "candy", "1.0")

    with pytest.raises(InputError, match="the package there is candy, not peft"):
        read(f"peft @ {wheel.as_uri()}")


def test_a_checkout_is_built_into_a_wheel(read, monkeypatch, tmp_path):
    use_index(monkeypatch, "http://localhost:1/simple", tmp_path)
    folder = write_checkout(tmp_path / "check out", "candy-bar", "1.0")

    (built,) = read(f"candy-bar @ {folder.as_uri()}")

    assert built.name == "candy-bar"
    assert built.text.startswith("candy-bar @ file:///")
    assert built.text.endswith(".whl")
    assert built.identity.startswith("candy-bar ")


# Known constraints.


@pytest.mark.parametrize(
    ("version", "transformers", "named", "added"),
    [
        ("0.15.2", "5.1", (), []),
        ("0.16.0", "5.1", (), ["transformers<5"]),
        ("0.17.1", "5.0rc1", (), ["transformers<5"]),
        ("0.17.1", "4.57", (), []),
        ("0.18.0", "5.1", (), []),
        ("0.16.0", "5.1", ("transformers",), []),
    ],
)
def test_peft_016_and_017_bring_an_older_transformers_unless_it_is_named(
    version, transformers, named, added
):
    planned = [Planned(name="peft", version=version, source=f"peft=={version}")]
    wanted = [Wanted(name=name, text=name, shown=name, identity=None) for name in named]

    found = constraints_for(planned, wanted, {"peft": "0.21", "transformers": transformers})

    assert [one.requirement for one in found] == added
