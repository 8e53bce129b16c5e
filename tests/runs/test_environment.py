"""The environment: the closure of packages, and the machine without its name."""

import os
import platform
import socket
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import msgspec
import pytest

from peft_regress.cases import is_version
from peft_regress.runs import environment
from peft_regress.runs.environment import (
    TRAINING_THREADS,
    describe_machine,
    installed_packages,
    loaded_packages,
    usable_cores,
)


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these packages, each with its requirements, are all there is."""
    packages: dict[str, list[str] | None] = {}

    def find(name):
        if name not in packages:
            raise PackageNotFoundError(name)
        return SimpleNamespace(version=f"1.{len(name)}", requires=packages[name])

    monkeypatch.setattr(environment.metadata, "distribution", find)
    return packages


def test_a_package_is_loaded_if_a_module_of_it_is(monkeypatch):
    """What it requires is not, until something imports that."""
    monkeypatch.setattr(environment, "_owners", lambda: {"a": ["Dist_A"], "b": ["b", "also-b"]})
    monkeypatch.setattr(sys, "modules", {"a.part": None, "nobodys": None})
    assert loaded_packages() == {"dist-a"}


@pytest.mark.parametrize(
    ("packages", "found"),
    [
        ({"root": ["middle>=1"], "middle": ["leaf"], "leaf": None, "stranger": None},
         {"root", "middle", "leaf"}),
        ({"root": ["two"], "two": ["root"]}, {"root", "two"}),
        ({"root": ["Some_Package", "some.package"], "some-package": None},
         {"root", "some-package"}),
        ({"root": ['other; sys_platform == "nowhere"', 'more; extra == "more"',
                   f'leaf; os_name == "{os.name}"'], "other": None, "more": None, "leaf": None},
         {"root", "leaf"}),
        ({"root": ["absent"]}, {"root"}),
    ],
    ids=["closure", "circle", "spellings", "markers", "not installed"],
)  # fmt: skip
def test_packages_are_what_is_required_here(installed, packages, found):
    installed.update(packages)
    assert installed_packages("root").keys() == {"python", *found}


@pytest.mark.parametrize("stated", [None, "1.0~rc1", "../../x", "1 0", "x" * 300, ""])
def test_a_version_that_no_run_file_may_hold_is_recorded_as_odd(monkeypatch, stated):
    """Another package's metadata may say anything; the run file must stay readable."""
    found = SimpleNamespace(version=stated, requires=["good", "not a (requirement"])
    monkeypatch.setattr(environment.metadata, "distribution", lambda _: found)
    versions = installed_packages("root")
    assert versions.keys() == {"good", "python", "root"}
    assert versions["root"].startswith("odd-")
    assert is_version(versions["root"])


def test_without_torch_the_machine_is_described_all_the_same(monkeypatch):
    """At the end of a run whose tests all failed for it, there is still a run file to write."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert describe_machine().instruction_set == "unknown: torch does not import"


@pytest.fixture
def machine(monkeypatch):
    """Describe a machine of these properties, with no torch."""

    def describe(*, cpu="Example CPU", cores=4, capability="AVX2"):
        backends = SimpleNamespace(cpu=SimpleNamespace(get_cpu_capability=lambda: capability))
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(backends=backends))
        monkeypatch.setattr(environment, "_cpu_model", lambda: cpu)
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        return describe_machine()

    return describe


def test_machine_is_what_times_depend_on_and_has_no_host_name(machine, monkeypatch):
    found = machine()
    assert (found.cpu, found.cores, found.instruction_set) == ("Example CPU", 4, "AVX2")
    assert found.threads == TRAINING_THREADS
    for module, name in ((socket, "gethostname"), (platform, "node")):
        monkeypatch.setattr(module, name, lambda: "secret-host")
    assert machine() == found
    assert b"secret-host" not in msgspec.json.encode(found)
    others = ({"cpu": "Another"}, {"cores": 8}, {"capability": "AVX512"})
    assert len({machine(**other).digest for other in ({}, *others)}) == 4


def test_only_the_cores_that_the_process_may_use_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert usable_cores() == 2
    # As on macOS.
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, expected in ((8, 8), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cores() == expected
