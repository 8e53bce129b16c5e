"""Requirements as users type them: what they mean, and which texts are none."""

import pytest
from checkouts import write_checkout
from package_index import use_index, write_wheel

from peft_regress.errors import InputError
from peft_regress.overlay import overlay
from peft_regress.overlay.overlay import Wanted, lacking_constraint, read_requirements
from peft_regress.overlay.pip import Planned
from peft_regress.project.settings import Pip


@pytest.fixture
def read(tmp_path):
    def call(*texts, pre=False):
        return read_requirements(texts, Pip(pre=pre), scratch=tmp_path / "scratch")

    return call


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("pip was asked")

    monkeypatch.setattr(overlay, "released_versions", refuse)
    monkeypatch.setattr(overlay, "build_wheel", refuse)


@pytest.mark.parametrize(
    "text",
    [
        *("", "peft=0.1", "peft==", "peft==0.1 galore-torch==1.0", "pe\0ft==0.1", "peft[==0.1"),
        *("peft==0.1\n--index-url http://evil", "peft==0.1\x1b[31m", "peft==0.1\udcff", "peft @ "),
        *("--index-url http://evil", "-r requirements.txt", "git+https://localhost/peft"),
        *("/" + "x" * 5000, "./no\0such.whl", "/nosuch/folder", "nosuch.whl", "/dev/null"),
    ],
)
def test_a_text_that_is_no_requirement_is_refused_in_one_line(read, no_pip, text):
    with pytest.raises(InputError) as caught:
        read(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "content"), [("candy-1.0-py3-none-any.whl", b"no zip"), ("candy.whl", b"PK")]
)
def test_a_file_that_is_no_wheel_is_refused(read, no_pip, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not a wheel that pip could install"):
        read(str(tmp_path / name))


@pytest.mark.parametrize("other", ["galore_torch==1.1", "GaLore.Torch==1.0", "galore-torch[x]>=1"])
def test_a_package_is_named_once_however_it_is_spelt(read, no_pip, other):
    with pytest.raises(InputError, match="galore-torch is required twice"):
        read("galore-torch==1.0", other)


def test_a_pinned_release_is_taken_as_it_is(read, no_pip):
    text = "Galore_Torch[extra] == 1.0 ; python_version > '3'"
    (found,) = read(text)
    assert (found.name, found.text, found.digest) == ("galore-torch", text, None)


def test_a_name_without_a_version_is_its_newest_release(read, monkeypatch, tmp_path):
    def released(_, pip):
        return ["1.9", "1.10", *(["2.0b1"] if pip.pre else [])]

    monkeypatch.setattr(overlay, "released_versions", released)
    # Also beside a folder of that name.
    monkeypatch.chdir(tmp_path)
    write_checkout(tmp_path / "candy", "candy", "1.0")
    assert [one.text for one in read("candy")] == ["candy==1.10"]
    assert [one.text for one in read("candy[x]", pre=True)] == ["candy[x]==2.0b1"]


def test_a_wheel_is_the_same_wherever_it_lies_and_however_it_is_named(
    read, no_pip, monkeypatch, tmp_path
):
    wheel = write_wheel(tmp_path / "a folder #1", "candy", "1.0")
    copy = write_wheel(tmp_path / "other", "candy", "1.0")
    changed = write_wheel(tmp_path / "changed", "candy", "1.0", source="x = 1")
    monkeypatch.chdir(tmp_path)
    named = [str(wheel), f"a folder #1/{wheel.name}", f"candy @ {wheel.as_uri()}", str(copy)]
    found = [read(text)[0] for text in named]
    assert {one.digest for one in found} == {found[0].digest}
    assert read(str(changed))[0].digest != found[0].digest
    assert [one.text for one in found[:-1]] == [f"candy @ {wheel.as_uri()}"] * 3
    assert [one.shown for one in found] == named


def test_a_checkout_is_built_into_a_wheel(read, monkeypatch, tmp_path):
    use_index(monkeypatch, "http://localhost:1/simple", tmp_path)
    folder = write_checkout(tmp_path / "check out", "candy-bar", "1.0")
    (built,) = read(str(folder))
    assert built.text.startswith("candy-bar @ file:///")
    assert built.text.endswith(".whl")
    assert built.digest.startswith("candy-bar ")


@pytest.mark.parametrize(
    ("version", "transformers", "named", "is_added"),
    [
        ("0.15.2", "5.1", (), False),
        ("0.16.0", "5.1", (), True),
        ("0.17.1", "5.0rc1", (), True),
        ("0.17.1", "4.57", (), False),
        ("0.18.0", "5.1", (), False),
        ("0.16.0", "5.1", ("transformers",), False),
    ],
)
def test_peft_016_and_017_bring_an_older_transformers_unless_it_is_named(
    version, transformers, named, is_added
):
    planned = [Planned(name="peft", version=version, source=f"peft=={version}")]
    wanted = [Wanted(name=name, text=name, shown=name) for name in named]
    found = lacking_constraint(planned, wanted, {"peft": "0.21", "transformers": transformers})
    assert (found is not None and found[0] == "transformers<5") == is_added
