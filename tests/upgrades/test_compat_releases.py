"""Releases are tried by programs that stand in for their environments; no pip, no torch."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_interpreters import all_gone, processes_of, write_worker
from packaging.version import Version

from peft_regress.errors import AbsentError, InputError
from peft_regress.overlay.pip import PipError
from peft_regress.project.settings import Pip
from peft_regress.upgrades.compat import compat as compat_module
from peft_regress.upgrades.compat.adapter import read_adapter
from peft_regress.upgrades.compat.compat import CompatSettings, compat
from peft_regress.upgrades.compat.releases import BaseModel

KNOWN = ["0.9.0", "0.10.0", "0.10.1", "0.11.0", "0.12.0"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Let each release be a program, which `world.how` tells what to do, by release."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    header = b'{"__metadata__":{}}'
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    weights = len(header).to_bytes(8, "little") + header
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    how: dict[str, object] = {}
    opened: list[list[str]] = []

    @contextlib.contextmanager
    def opened_overlay(requirements, _):
        opened.append(requirements)
        release = requirements[0].partition("==")[2]
        if how.get(release) == "absent":
            raise PipError(requirements[0], "the index does not have it")
        yield SimpleNamespace(python=Path(python(release)))

    def python(release):
        chosen = how.get(release, {})
        outputs = [[chosen.get("output", 1.0)]]
        return write_worker(
            tmp_path / release,
            how={kind: done for kind, done in chosen.items() if isinstance(done, str)},
            packages={"peft": release},
            answers={
                "make_base": {"weights": "w", "inputs": "i", "outputs": [[0.5]]}
                | chosen.get("base", {}),
                "load": chosen.get("loaded", {"outputs": outputs, "merged": outputs}),
            },
        )

    def released_versions(package, _):
        return [Version(text) for text in KNOWN]

    monkeypatch.setattr(compat_module, "opened_overlay", opened_overlay)
    monkeypatch.setattr(compat_module, "released_versions", released_versions)

    def call(*, folder=tmp_path, progress=lambda _: None, **settings):
        chosen = {"releases": "0.10.1..", "jobs": 2, "time_limit": 60.0, "saved_by": "0.12.0"}
        base = BaseModel(name="nets:make", folder=str(folder))
        settings = CompatSettings(base=base, pip=Pip(), **{**chosen, **settings})
        return compat(read_adapter(adapter), settings, progress=progress)

    return SimpleNamespace(how=how, call=call, adapter=adapter, opened=opened, folder=tmp_path)


def verdicts(found):
    return {one.release: one.judgement.verdict for one in found.results}


def test_every_release_of_the_range_is_judged_by_the_one_that_saved_the_adapter(world):
    world.how["0.10.1"] = {"output": 1.5}
    seen = []
    found = world.call(progress=seen.append)
    assert verdicts(found) == {"0.10.1": "other_output", "0.11.0": "same", "0.12.0": "same"}
    assert (found.saved_by, found.exit_code) == ("0.12.0", 1)
    assert found.results[0].judgement.difference == pytest.approx(0.5)
    assert seen[0] == "peft 0.12.0: the reference"
    assert "peft 0.10.1: other output" in seen[1:]
    for release in ("0.10.1", "0.11.0", "0.12.0"):
        assert all_gone(processes_of(str(world.folder / release)))


def test_by_default_the_last_patch_of_each_minor_release_is_tried(world):
    assert list(verdicts(world.call(releases=None))) == ["0.10.1", "0.11.0", "0.12.0"]


def test_who_saved_the_adapter_is_taken_from_the_option_then_from_its_file(world):
    (world.adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "peft_version": "0.11.0"}'
    )
    found = world.call(saved_by=None)
    assert (found.saved_by, found.why_reference) == (*("0.11.0", "the adapter's configuration"),)
    found = world.call(saved_by="0.9.0", also_install=("sugar==1",))
    assert (found.saved_by, found.why_reference) == ("0.9.0", "--saved-by")
    assert world.opened[-1] == ["peft==0.12.0", "sugar==1"]
    with pytest.raises(InputError, match="--saved-by 'newest' is not a version"):
        world.call(saved_by="newest")


@pytest.mark.parametrize("written", ["", ', "peft_version": "the newest"'])
def test_a_release_that_nobody_names_is_asked_for(world, written):
    (world.adapter / "adapter_config.json").write_text(f'{{"peft_type": "LORA"{written}}}')
    with pytest.raises(AbsentError, match=r"peft that saved the adapter.*--saved-by VERSION"):
        world.call(saved_by=None)
    assert not world.opened


@pytest.mark.parametrize(
    ("how", "verdict", "words"),
    [
        ("absent", "unusable", "the index does not have it"),
        (
            {"import_modules": "refuse"},
            "unusable",
            "does not import: ImportError: cannot import name 'HybridCache'",
        ),
        ({"import_modules": "kill"}, "unusable", "killed by SIGKILL"),
        ({"make_base": "refuse"}, "unusable", "HybridCache"),
        ({"load": "refuse"}, "unusable", "HybridCache"),
        ({"base": {"weights": "x"}}, "incomparable", "other weights"),
        ({"load": "kill"}, "refused", "killed by SIGKILL"),
        ({"loaded": {"refusal": "ValueError: too old"}}, "refused", "ValueError: too old"),
    ],
)
def test_a_release_that_cannot_be_tried_never_counts_as_a_pass(world, how, verdict, words):
    world.how["0.11.0"] = how
    found = world.call()
    assert verdicts(found) == {"0.10.1": "same", "0.11.0": verdict, "0.12.0": "same"}, found
    assert words in found.results[1].judgement.details[0]
    assert found.exit_code == (1 if verdict == "refused" else 3)


def test_a_release_that_does_not_answer_in_time_is_unusable(world):
    world.how["0.11.0"] = {"load": "hang"}
    found = world.call(releases="0.11.0", time_limit=2.0)
    assert verdicts(found) == {"0.11.0": "unusable"}
    assert "no answer within 2 s" in found.results[0].judgement.details[0]


def test_an_adapter_with_unknown_fields_that_is_refused_is_tried_without_them(world):
    refusal = {"refusal": "TypeError: unexpected", "unknown_fields": ["use_x"]}
    world.how["0.11.0"] = loaded(**refusal, without=loaded()["loaded"])
    (result,) = world.call(releases="0.11.0").results
    assert (result.judgement.verdict, result.left_out) == ("refused", ("use_x",))
    assert result.without.verdict == "same"


def loaded(**values):
    return {"loaded": {"outputs": [[1.0]], "merged": [[1.0]], **values}}


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"loaded": {"refusal": "ValueError: no"}}, InputError, r"refuses it: ValueError: no"),
        ({"loaded": {"outputs": [[0.0]], "is_finite": False}}, InputError, "NaN or infinite"),
        ({"import_modules": "refuse"}, AbsentError, "does not import.*--saved-by VERSION"),
        ({"make_base": "refuse"}, InputError, "HybridCache"),
        ({"load": "refuse"}, InputError, "HybridCache"),
        ("absent", AbsentError, "cannot be used.*does not have it.*--saved-by VERSION"),
        (loaded(is_steady=False), InputError, "another one each time it runs"),
        (loaded(missing_keys=["a"]), InputError, "does not find in the file 1 tensor: a"),
        (loaded(foreign_keys=["a"]), InputError, "has no place for 1 tensor: a"),
        (loaded(altered_keys=["a"]), InputError, "changes the numbers of 1 tensor: a"),
    ],
)
def test_without_a_reference_nothing_is_tried(world, how, error, words):
    world.how["0.12.0"] = how
    with pytest.raises(error, match=words):
        world.call()
    assert len(world.opened) == 1


def test_the_folder_of_the_adapter_is_never_on_the_path_of_a_release(world):
    with pytest.raises(InputError, match="could import a file of it: start in another"):
        world.call(folder=world.adapter)
