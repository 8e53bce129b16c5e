"""What differs between two releases of a module, and a module mixed of both."""

import textwrap

import pytest

from peft_regress.mixing.units import Module, changed_units, mixed

OLD = '''
"""A module."""
from __future__ import annotations
import math
from dataclasses import dataclass

SCALE = 2

@dataclass
class Config:
    rank: int = 8

class Layer:
    bias = 0

    def __init__(self, size=4, *, scale=1.0):
        """Make it."""
        self.size, self.scale = size, scale

    @property
    def rank(self):
        return Config().rank

    @rank.setter
    def rank(self, value):
        self.size = value

    def forward(self, x):
        return self._twice(x) * SCALE + helper(self.bias)

    def _twice(self, x):
        return 2 * x

def helper(x):
    return math.floor(x + 0.5)
'''


def modules(*changes):
    new = OLD
    for before, after in changes:
        assert before in new
        new = new.replace(before, after)
    return Module(OLD), Module(new)


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (("return 2 * x", "return x + x"), ["Layer._twice"]),
        (("size=4", "size=5"), ["Layer.__init__(size)"]),
        (("scale=1.0):", "scale=2.0, more=1):"), ["Layer.__init__(scale)", "Layer.__init__"]),
        (("rank: int = 8", "rank: int = 16"), ["Config.rank"]),
        (("SCALE = 2", "SCALE = 3"), ["SCALE"]),
        (("bias = 0", "bias = 1"), ["Layer.bias"]),
        (("self.size = value", "self.size = value + 1"), ["Layer.rank#2"]),
        (("    def _twice(self, x):\n        return 2 * x\n", ""), ["Layer._twice"]),
        (("Make it.", "Make a layer, at once."), []),
        (("return 2 * x", "return 2 * x  # doubled"), []),
        (("def helper(x):", "def also(x):\n    return x\n\ndef helper(x):"), []),
        (("import math", "import cmath as math"), []),
    ],
)  # fmt: skip
def test_what_differs_is_named(change, units):
    assert changed_units(*modules(change)) == units


def loaded(tree):
    found = {"__name__": __name__}
    exec(compile(tree, "loaded.py", "exec", dont_inherit=True), found)
    return found


def forwarded(found):
    return found["Layer"]().forward(3)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([("return 2 * x", "return 5 * x")], ["Layer._twice"]),
        ([("SCALE = 2", "SCALE = 9")], ["SCALE"]),
        ([("bias = 0", "bias = 40")], ["Layer.bias"]),
        ([("SCALE + helper(self.bias)", "7"), ("def helper", "def renamed")],
         ["Layer.forward", "helper"]),
        ([("    def _twice(self, x):\n        return 2 * x\n", ""), ("self._twice(x)", "x")],
         ["Layer.forward", "Layer._twice"]),
        ([("import math\n", ""), ("math.floor(x + 0.5)", "11")], ["helper", "math"]),
    ],
)  # fmt: skip
def test_the_units_of_the_other_release_bring_back_what_it_did(changes, names):
    old, new = modules(*changes)
    was, now = (forwarded(loaded(one.tree)) for one in modules(*changes))
    assert was != now
    assert forwarded(loaded(mixed(new, old, names))) == was
    changed = [one for one in names if one in new.places]
    assert forwarded(loaded(mixed(old, new, [*changed]))) == now


def test_a_default_comes_without_the_body_of_its_function():
    old, new = modules(("size=4", "size=5"), ("= size, scale", "= 10 * size, scale"))
    assert loaded(mixed(new, old, ["Layer.__init__(size)"]))["Layer"]().size == 40
    assert loaded(mixed(new, old, ["Layer.__init__"]))["Layer"]().size == 4


def test_a_method_that_the_other_release_lacks_is_taken_out():
    plain = "class A:\n    def size(self): return 1\n\nclass B(A):\n    pass\n"
    sides = Module(plain), Module(f"{plain}\n    def size(self): return 2\n")
    assert changed_units(*sides) == ["B.size"]
    assert loaded(mixed(sides[1], sides[0], ["B.size"]))["B"]().size() == 1
    assert loaded(mixed(sides[0], sides[1], ["B.size"]))["B"]().size() == 2


def test_nodes_keep_their_lines_and_modules_stay_as_they_are():
    old, new = modules(("return 2 * x", "return (\n            x + x)"))
    code = compile(mixed(new, old, ["Layer._twice"]), "new.py", "exec")
    assert code.co_filename == "new.py"
    assert new.lines("Layer._twice") == (old.lines("Layer._twice")[0], 33)
    assert textwrap.dedent("".join(old.segment("Layer._twice"))).startswith("def _twice")
    assert old.segment("absent") == []
    assert forwarded(loaded(new.tree)) == forwarded(loaded(old.tree))
