"""The environment: the closure of packages, and the machine without its name."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from peft_regress.cases import is_version
from peft_regress.runs import environment
from peft_regress.runs.environment import (
    TRAINING_THREADS,
    describe_machine,
    installed_packages,
    usable_cores,
)

if TYPE_CHECKING:
    from peft_regress.runs.schema import Machine


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str] | None]:
    """Pretend that these packages, each with its requirements, are all there is."""
    packages: dict[str, list[str] | None] = {}

    def find(name: str) -> Any:
        if name not in packages:
            raise PackageNotFoundError(name)
        return SimpleNamespace(version=f"1.{len(name)}", requires=packages[name])

    monkeypatch.setattr(environment, "distribution", find)
    return packages


def test_versions_are_those_installed() -> None:
    found = installed_packages()
    assert found["python"] == platform.python_version()
    for package in ("peft", "torch", "torchvision", "galore-torch", "peft-regress"):
        assert found[package] == version(package)


def test_packages_are_sorted() -> None:
    assert list(installed_packages()) == sorted(installed_packages())


def test_the_whole_closure_is_listed(installed: dict[str, Any]) -> None:
    installed.update({"root": ["middle>=1"], "middle": ["leaf"], "leaf": None, "stranger": None})
    assert installed_packages("root").keys() == {"python", "root", "middle", "leaf"}


@pytest.mark.parametrize("stated", [None, "1.0~rc1", "../../x", "1 0", "x" * 300, ""])
def test_a_version_that_no_run_file_may_hold_is_recorded_as_odd(
    monkeypatch: pytest.MonkeyPatch, stated: str | None
) -> None:
    """Another package's metadata may say anything; the run file must stay readable."""
    found = SimpleNamespace(version=stated, requires=["good", "not a (requirement"])
    monkeypatch.setattr(environment, "distribution", lambda _: found)
    versions = installed_packages("root")
    assert versions.keys() == {"good", "python", "root"}
    assert versions["root"].startswith("odd-")
    assert is_version(versions["root"])


def test_without_torch_the_machine_is_described_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of a run whose tests all failed for it, there is still a run file to write."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert describe_machine().instruction_set == "unknown: torch does not import"


def test_packages_that_need_each_other_end(installed: dict[str, Any]) -> None:
    installed.update({"one": ["two"], "two": ["one"]})
    assert installed_packages("one").keys() == {"python", "one", "two"}


def test_one_package_under_two_spellings_is_one(installed: dict[str, Any]) -> None:
    installed.update({"root": ["Some_Package", "some.package"], "some-package": None})
    assert installed_packages("root").keys() == {"python", "root", "some-package"}


def test_what_another_platform_or_an_extra_needs_is_left_out(installed: dict[str, Any]) -> None:
    lines = [
        'other; sys_platform == "nowhere"',
        'more; extra == "more"',
        f'leaf; os_name == "{os.name}"',
    ]
    installed.update({"root": lines, "other": None, "more": None, "leaf": None})
    assert installed_packages("root").keys() == {"python", "root", "leaf"}


def test_what_is_not_installed_is_left_out(installed: dict[str, Any]) -> None:
    installed.update({"root": ["absent"]})
    assert installed_packages("root").keys() == {"python", "root"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Describe a machine of these properties, with no torch."""

    def describe(*, cpu: str = "Example CPU", cores: int = 4, capability: str = "AVX2") -> Machine:
        backends = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: capability))
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(backends=backends))
        monkeypatch.setattr(environment, "_cpu_model", lambda: cpu)
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        return describe_machine()

    return describe


def test_machine_is_what_times_depend_on(machine: Any) -> None:
    found = machine()
    assert (found.cpu, found.cores, found.instruction_set) == ("Example CPU", 4, "AVX2")
    assert found.threads == TRAINING_THREADS
    assert found.digest.startswith("sha256:")


def test_the_same_machine_has_the_same_digest(machine: Any) -> None:
    assert machine() == machine()


@pytest.mark.parametrize("other", [{"cpu": "Another"}, {"cores": 8}, {"capability": "AVX512"}])
def test_another_machine_has_another_digest(machine: Any, other: dict[str, Any]) -> None:
    assert machine(**other).digest != machine().digest


def test_the_description_holds_no_host_name(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine()
    for module, name in ((socket, "gethostname"), (platform, "node")):
        monkeypatch.setattr(module, name, lambda: "secret-host")
    assert machine() == before
    assert b"secret-host" not in msgspec.json.encode(machine())


@pytest.mark.parametrize(("cpu_count", "expected"), [(8, 8), (None, 1)])
def test_a_system_without_affinity_counts_all_cores(
    monkeypatch: pytest.MonkeyPatch, cpu_count: int | None, expected: int
) -> None:
    """As macOS, where `os.sched_getaffinity` does not exist."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpu_count)
    assert usable_cores() == expected


def test_only_the_cores_that_the_process_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert usable_cores() == 2


def test_the_cpus_model_is_one_line_of_text() -> None:
    model = environment._cpu_model()
    assert model == model.strip()
    assert model.isprintable()


def test_importing_the_module_imports_no_torch() -> None:
    code = "import sys, peft_regress.runs.environment; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
