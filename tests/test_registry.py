"""The registry: entry points, additions, refusals."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, NamedTuple

import pytest

from peft_regress import registry
from peft_regress.errors import InputError, UnknownNameError

BUILT_IN = {
    "method": {"full", "head", "bn_head", "lora", "dora", "galore"},
    "architecture": {
        *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
        "efficientnet_lite0",
    },
    "task": {"shift", "unseen"},
}


pytestmark = pytest.mark.usefixtures("clean_registry")


@dataclass(frozen=True)
class Thing:
    name: str


class Distribution(NamedTuple):
    name: str
    version: str


class Point:
    def __init__(self, name, item):
        self.name, self.value, self._item = name, f"package:{name}", item
        self.group, self.dist = "peft_regress.tasks", Distribution("zoo", "1.2")

    def load(self):
        if isinstance(self._item, Exception):
            raise self._item
        return self._item


class Recording:
    """A family of some names that notes what it is asked."""

    def __init__(self, *known):
        self.known, self.asked = known, []

    def names(self):
        return self.known

    def find(self, name):
        self.asked.append(name)
        return Thing(name) if name in self.known else None


@pytest.fixture
def entry_points(monkeypatch):
    """Start from an empty registry; entry points come from the dict, by group and name."""
    found: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(registry, "_added", {kind: {} for kind in BUILT_IN})
    monkeypatch.setattr(registry, "_loaded", set())
    monkeypatch.setattr(registry, "_found", {})
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group: [Point(*pair) for pair in found.get(group, {}).items()],
    )
    return found


@pytest.fixture
def families(entry_points):
    return entry_points.setdefault("peft_regress.architecture_families", {})


@pytest.mark.parametrize("kind", BUILT_IN)
def test_built_ins_come_through_the_entry_points(kind):
    assert BUILT_IN[kind] <= set(registry.names(kind))
    assert tuple(item.name for item in registry.items(kind)) == registry.names(kind)


def test_what_was_added_is_found_until_it_is_removed():
    thing = Thing("mine")
    registry.add("task", thing)
    registry.add("method", Thing("mine"))  # two kinds may share a name
    assert registry.get("task", "mine") is thing
    assert registry.names("task")[-1] == "mine"
    assert registry.items("task")[-1] is thing
    registry.remove("task", "mine")
    with pytest.raises(UnknownNameError):
        registry.get("task", "mine")
    with pytest.raises(UnknownNameError):
        registry.remove("task", "mine")
    registry.add("task", Thing("mine"))
    with pytest.raises(InputError, match="'mine' is already registered"):
        registry.add("task", Thing("mine"))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("method", "lora", "'lora' is already registered"),
        ("methods", "mine", "Did you mean 'method'"),
        # `lora-r4` without a rank and `lora` with rank 4 would be one id.
        ("method", "lora-r4", "could not be part of a case id"),
        *(
            ("task", name, "could not be part of a case id")
            for name in ("", "a/b", "a*", "a?", "[a]", "a b", "a\tb", "a\nb", "a\x00b", "a\x1b[0m")
        ),
    ],
)
def test_what_is_taken_or_would_spoil_an_id_is_refused(kind, name, message):
    with pytest.raises(InputError, match=message):
        registry.add(kind, Thing(name))


@pytest.mark.parametrize(
    ("name", "item", "message"),
    [
        ("a/b", Thing("a/b"), "could not be part of a case id"),
        ("broken", ImportError("no such module"), (
            r"'broken' \(peft_regress.tasks: package:broken\) of zoo 1.2 does not load: "
            r"ImportError: no such module \(.*test_registry.py, line \d+\). Repair that package"
        )),
    ],
)  # fmt: skip
def test_an_entry_point_that_registers_nothing_usable_is_named_each_time(
    entry_points, name, item, message
):
    for kind in ("tasks", "architecture_families"):
        entry_points[f"peft_regress.{kind}"] = {"good": Thing("good"), name: item}
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            registry.names("task")
    if isinstance(item, ImportError):
        for _ in range(2):
            with pytest.raises(InputError, match=r"entry point 'broken' .* ImportError: no such"):
                registry.get("architecture", "lion")


def test_a_package_may_register_more_while_its_entry_point_loads(entry_points, monkeypatch):
    class Loading(EntryPoint):
        def load(self):
            registry.add("task", Thing("extra"))
            return Thing(self.name)

    point = Loading(name="one", value="package:one", group="peft_regress.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert set(registry.names("task")) == {"one", "extra"}


def test_a_family_gives_what_is_not_registered_in_no_list_and_is_asked_once(families):
    families["zoo"] = Recording("lion", "tiger")
    lion = registry.get("architecture", "lion")
    assert lion == Thing("lion")
    assert registry.get("architecture", "lion") is lion
    assert families["zoo"].asked == ["lion"]
    assert registry.names("architecture") == registry.items("architecture") == ()
    for act, kind in ((registry.get, "method"), (registry.remove, "architecture")):
        with pytest.raises(UnknownNameError, match=f"unknown {kind} 'lion'"):
            act(kind, "lion")


def test_registering_a_name_wins_over_the_first_family_that_gave_it_before(families):
    families["zoo"] = Recording("lion")
    families["aviary"] = Recording("lion", "eagle")
    given = registry.get("architecture", "lion")
    assert (families["aviary"].asked, families["zoo"].asked) == (["lion"], [])
    mine = Thing("lion")
    registry.add("architecture", mine)
    assert registry.get("architecture", "lion") is mine
    registry.remove("architecture", "lion")
    assert registry.get("architecture", "lion") is given


def test_unknown_name_lists_the_registered_and_hints_at_a_family_too(families):
    families["zoo"] = Recording("lion", "tiger")
    registry.add("architecture", Thing("mouse"))
    with pytest.raises(UnknownNameError) as raised:
        registry.get("architecture", "lyon")
    expected = "unknown architecture 'lyon'. Did you mean 'lion'? Known: mouse, 2 of zoo."
    assert str(raised.value) == expected
