"""Overlays: their content, that nothing else changes, and that only complete ones are used."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
from checkouts import write_checkout
from package_index import use_index, write_wheel

from peft_regress.errors import InputError
from peft_regress.files import cache_folder
from peft_regress.locks import opened_lock
from peft_regress.overlay import folder as overlay_folder
from peft_regress.overlay import overlay as overlays
from peft_regress.overlay.folder import build_folder, read_folder
from peft_regress.overlay.overlay import ReplacesTorchError as ReplacesTorch
from peft_regress.overlay.overlay import clean_overlays, opened_overlay, opened_part
from peft_regress.overlay.pip import PipError, Planned
from peft_regress.project.settings import Pip

TORCH = importlib.util.find_spec("torch").origin
# Not by `find_spec`: for pip, setuptools switches its replacement of distutils off.
PIP = str(distribution("pip").locate_file("pip/__init__.py"))


def installed_files():
    """Return what is installed in the running environment, to see that it stays so."""
    found = {}
    for folder in map(Path, overlay_folder.site_folders()):
        for entry in folder.iterdir():
            state = entry.stat()
            found[str(entry)] = (state.st_size, state.st_mtime_ns)
            if entry.suffix == ".dist-info":
                for file in entry.iterdir():
                    found[str(file)] = (file.stat().st_size, file.stat().st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def built(served, tmp_path_factory):
    """Build one overlay in a shell whose settings would redirect pip."""
    root = tmp_path_factory.mktemp("built")
    before = installed_files()
    with pytest.MonkeyPatch.context() as patch:
        use_index(patch, served.url, root / "cache")
        patch.setenv("PIP_TARGET", str(root / "elsewhere"))
        patch.setenv("PIP_USER", "1")
        with opened_overlay(["candy==1.1"], Pip()) as overlay:
            pass
    return overlay, before, installed_files(), root


def run_in(python, source, **variables):
    """Run a script in an interpreter that knows PYTHONPATH from the variables alone."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-P", "-c", source],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


FOUND = """
import importlib.metadata, importlib.util, json, sys
origin = lambda name: importlib.util.find_spec(name).origin
print(json.dumps({
    "origins": {name: origin(name) for name in ("candy", "sugar", "torch", "peft_regress", "pip")},
    "versions": {n: importlib.metadata.version(n) for n in ("candy", "torch", "peft-regress")},
    "imported": "torch" in sys.modules,
    "path": sys.path,
}))
"""


FOUND_ORIGINS = """
import importlib.util, json
print(json.dumps([importlib.util.find_spec(name).origin for name in {names}]))
"""


def test_its_own_packages_come_first_and_all_others_from_here(built):
    overlay, before, after, root = built
    assert overlay.packages == {"candy": "1.1", "sugar": "1.5"}
    assert [one.source for one in overlay.planned] == ["candy==1.1", "sugar==1.5"]
    assert (overlay.remarks, overlay.was_cached) == ((), False)
    assert overlay.size_bytes < 2**20
    assert after == before, "the running environment stays as it was"
    assert [entry.name for entry in root.iterdir()] == ["cache"], "and the shell's folders"
    found = run_in(overlay.python, FOUND)
    inside = str(overlay.folder)
    assert found["origins"]["candy"].startswith(inside)
    assert found["origins"]["sugar"].startswith(inside)
    assert (found["origins"]["torch"], found["origins"]["pip"]) == (TORCH, PIP)
    # The running environment may have it as an editable install.
    assert found["origins"]["peft_regress"].endswith("peft_regress/__init__.py")
    assert found["versions"]["candy"] == "1.1"
    assert not found["imported"]


def test_editable_installs_of_this_environment_are_found_after_its_own_packages(
    monkeypatch, tmp_path
):
    parent, checkout = tmp_path / "site-packages", tmp_path / "checkout"
    for folder, modules in ((parent, ["candy"]), (checkout, ["candy", "salt"])):
        folder.mkdir()
        for name in modules:
            (folder / f"{name}.py").write_text("")
    (parent / "editable.pth").write_text(f"{checkout}\n")
    monkeypatch.setattr(overlay_folder, "site_folders", lambda: [str(parent)])
    build_folder(tmp_path / "x", (), Pip(), keep_open=())
    own = next((tmp_path / "x").glob("lib/python*/site-packages"))
    script = FOUND_ORIGINS.format(names=("candy", "salt"))
    before = run_in(tmp_path / "x" / "bin" / "python", script)
    (own / "candy.py").write_text("")
    after = run_in(tmp_path / "x" / "bin" / "python", script)
    assert before == [str(parent / "candy.py"), str(checkout / "salt.py")]
    assert after == [str(own / "candy.py"), str(checkout / "salt.py")]


@pytest.mark.slow
def test_a_checkout_is_one_overlay_as_long_as_its_content_is_the_same(index, tmp_path):
    checkout = write_checkout(tmp_path / "check out", "candy", "9.0")
    seen = []
    for content in ("x = 1\n", "x = 1\n", "x = 2\n"):
        (checkout / "candy.py").write_text(content)
        with opened_overlay([str(checkout)], Pip()) as overlay:
            found = run_in(overlay.python, "import candy; print(candy.x)")
            seen.append((overlay.folder, overlay.was_cached, found))
            # It can be tried alone: its wheel is there for as long as the overlay is open.
            with opened_part(overlay.planned, Pip()) as part:
                assert part.folder == overlay.folder
    (first, *_), (again, was_cached, _), (changed, *_) = seen
    assert first == again != changed
    assert was_cached
    assert [found for *_, found in seen] == [1, 1, 2]


def test_the_second_use_installs_nothing(built, index, monkeypatch):
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(built[3] / "cache"))
    with opened_overlay(["candy==1.1"], Pip()) as overlay:
        assert overlay.was_cached
        assert overlay.folder == built[0].folder
        assert (overlay.packages, overlay.planned) == (built[0].packages, built[0].planned)
    assert index.downloads() == []


def test_an_overlay_can_be_made_from_inside_another_one(built, tmp_path):
    script = f"""
import json, subprocess, sys
from peft_regress.overlay.overlay import Pip, opened_part
with opened_part((), Pip()) as overlay:
    print(subprocess.run([overlay.python, "-P", "-c", {FOUND!r}], stdout=-1, text=True).stdout)
"""
    repository = str(Path(overlays.__file__).parents[2])
    found = run_in(built[0].python, script, PEFT_REGRESS_CACHE=str(tmp_path), PYTHONPATH=repository)
    assert found["origins"]["candy"].startswith(str(built[0].folder))
    assert found["origins"]["torch"] == TORCH
    assert len(found["path"]) == len(set(found["path"]))


@pytest.fixture
def planning(monkeypatch):
    """Let pip plan the first version that a requirement names, and keep what it was asked for."""
    asked = []

    def plan(texts, _, **options):
        asked.append(list(texts))
        pins = [text.split("==") for text in texts if "==" in text]
        return tuple(
            Planned(name=n, version=v, source=f"{n}=={v}", is_yanked=v == "1.2") for n, v in pins
        )

    monkeypatch.setattr(overlays, "plan", plan)
    return asked


def resolved(text, tmp_path):
    return overlays._resolved(overlays.read_requirements([text], Pip(), scratch=tmp_path), Pip())


def test_a_yanked_release_and_a_known_constraint_are_remarks(planning, monkeypatch, tmp_path):
    _, remarks = resolved("candy==1.2", tmp_path)
    assert remarks == ["candy 1.2 was yanked"]
    assert planning == [["candy==1.2", *overlays.GATED_PACKAGES]]
    here = {"peft": "0.21.2", "transformers": "5.24.0"}
    monkeypatch.setattr(overlays, "installed_packages", lambda: here)
    _, (remark,) = resolved("peft==0.16.0", tmp_path)
    assert planning[2:] == [[*planning[1], "transformers<5"]]
    assert remark.startswith("transformers<5 was added: peft 0.16 and 0.17 import")


@pytest.mark.slow
def test_a_wheel_with_the_installed_version_is_tried_nevertheless(index, tmp_path):
    wheel = write_wheel(tmp_path, "peft", version("peft"), source="x = 1")
    planned, _ = resolved(str(wheel), tmp_path)
    assert [one.source for one in planned] == [f"peft @ {wheel.as_uri()}"]


@pytest.fixture
def installing(monkeypatch):
    """Install without pip: only the metadata of each package."""

    def install(python, planned, *_, **__):
        own = next(python.parents[1].glob("lib/python*/site-packages"))
        for one in planned:
            info = own / f"{one.name}-{one.version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {one.name}\nVersion: {one.version}\n")

    monkeypatch.setattr(overlay_folder, "install", install)


def test_torch_is_replaced_only_if_that_is_agreed_to(planning, installing, monkeypatch, tmp_path):
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ReplacesTorch, match=r"torch==2\.99: .* by 2\.99,.*--yes"):
        opened_overlay(["torch==2.99"], Pip()).__enter__()
    assert folders(tmp_path / "cache") == []
    with opened_overlay(["torch==2.99"], Pip(replace_torch=True)) as overlay:
        assert overlay.packages == {"torch": "2.99"}
    # The existing overlay needs the same agreement.
    with pytest.raises(ReplacesTorch):
        opened_overlay(["torch==2.99"], Pip()).__enter__()


@pytest.mark.slow
def test_a_release_whose_wheel_is_broken_leaves_nothing(index, tmp_path):
    with pytest.raises(PipError, match=r"broken==1\.0: Wheel 'broken' .* invalid"):
        opened_overlay(["broken==1.0"], Pip()).__enter__()
    assert folders(tmp_path / "cache") == []


def folders(cache):
    return [entry for entry in cache.glob("overlays/*") if entry.is_dir()]


def test_an_incomplete_overlay_is_built_anew(index):
    with opened_part((), Pip()) as overlay:
        (overlay.folder / "overlay.json").unlink()
    with opened_part((), Pip()) as again:
        assert again.folder == overlay.folder
        assert not again.was_cached


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_build_that_stops_leaves_no_folder(monkeypatch, tmp_path, error):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(overlay_folder, "write_atomic", stop)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else InputError):
        build_folder(tmp_path / "x", (), Pip(), keep_open=())
    assert not (tmp_path / "x").exists()


OPEN = """
import sys
from peft_regress.overlay.overlay import Pip, opened_overlay, opened_part
with opened_overlay(sys.argv[1:], Pip()) if sys.argv[1:] else opened_part((), Pip()) as overlay:
    print(overlay.was_cached, len(overlay.packages), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def opening(monkeypatch):
    """Start processes that open an overlay and keep it until their input ends."""
    started = []
    repository = str(Path(overlays.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", repository)

    def start(*requirements):
        process = subprocess.Popen(
            [sys.executable, "-c", OPEN, *requirements],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A run in the background ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_processes_that_build_the_same_overlay_install_it_once(index, opening):
    both = [opening("candy==1.1"), opening("candy==1.1")]
    said = sorted(process.stdout.readline() for process in both)
    assert said == ["False 2\n", "True 2\n"]
    assert sorted(index.downloads()) == ["candy-1.1-py3-none-any.whl", "sugar-1.5-py3-none-any.whl"]


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_installs_leaves_nothing_usable(index, opening, tmp_path):
    index.hangs_at = "sugar-1.5-py3-none-any.whl"
    first = opening("candy==1.1")
    index.wait_for(index.hangs_at)
    first.kill()
    first.wait()
    (folder,) = folders(tmp_path / "cache")
    assert read_folder(folder, ()) is None
    # Its pip goes on; it must not write into what the next process builds.
    with opened_lock(folder.with_suffix(".lock")) as lock:
        assert not lock.own_now()
    index.hangs_at = None
    assert opening("candy==1.1").stdout.readline() == "False 2\n"


@pytest.mark.slow
def test_a_process_that_is_interrupted_leaves_no_folder_and_no_pip(index, opening, tmp_path):
    index.hangs_at = "sugar-1.5-py3-none-any.whl"
    process = opening("candy==1.1")
    index.wait_for(index.hangs_at)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=120)[1]
    assert folders(tmp_path / "cache") == []
    for file in (tmp_path / "cache" / "overlays").glob("*.lock"):
        with opened_lock(file) as lock:
            assert lock.own_now()


def test_cleaning_removes_unused_overlays_and_lists_the_others(index, opening, command, tmp_path):
    process = opening()
    assert process.stdout.readline() == "False 0\n"
    (used,) = folders(tmp_path / "cache")
    (used.with_name("litter") / "lib").mkdir(parents=True)
    code, out, _ = command("upgrade", "--clean")
    assert code == 0
    assert out.splitlines() == [
        f"1 environments removed from {tmp_path / 'cache'}",
        f"1 are in use and stay: {used.name}",
    ]
    assert read_folder(used, ()) is not None
    process.communicate("")
    assert clean_overlays() == ([used.name], [])
    assert folders(tmp_path / "cache") == []
    assert clean_overlays() == ([], [])
    code, _, err = command("upgrade", "--clean", "peft==0.14.0")
    assert (code, "--clean takes no requirement" in err) == (2, True)


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/nowhere", "~nosuchuser/cache"])
def test_a_cache_folder_that_cannot_be_used_is_an_error(monkeypatch, tmp_path, folder):
    (tmp_path / "file").write_text("")
    cache = folder if folder.startswith("~") else str(tmp_path / folder)
    monkeypatch.setenv("PEFT_REGRESS_CACHE", cache)
    with pytest.raises(InputError, match="set PEFT_REGRESS_CACHE to"):
        opened_part((), Pip()).__enter__()


def test_the_cache_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("PEFT_REGRESS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "peft-regress"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "peft-regress"
