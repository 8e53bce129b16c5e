"""How a run was narrowed, wherever that was written."""

import pytest

from peft_regress.plugin.selection import chosen_from_collected, kept_from_collection


def narrowed(pytester, *words, ini=""):
    pytester.makeini(f"[pytest]\naddopts = {ini}\n")
    option = pytester.parseconfig(*words).option
    return [*kept_from_collection(option), *chosen_from_collected(option)]


WORDS = {
    "-k a": ("-k", "a"),
    "-m b": ("-mb",),
    "--deselect x.py::t": ("--deselect=x.py::t",),
    "--ignore c": ("--ignore=c",),
    "--ignore-glob *d": ("--ignore-glob", "*d"),
    "--lf": ("--last-failed",),
    "--regress-cases shift/*": ("--regress-cases", "shift/*"),
    "--regress-shard 1/4": ("--regress-shard=1/4",),
    "x.py::test_one": ("x.py::test_one",),
}


@pytest.mark.parametrize(("how", "words"), WORDS.items(), ids=list(WORDS))
def test_each_way_is_found_wherever_it_is_written(pytester, monkeypatch, how, words):
    pytester.makepyfile(x="def test_one(): pass")
    assert narrowed(pytester, *words) == [how]
    assert narrowed(pytester, ini=" ".join(words)) == [how]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(words))
    assert narrowed(pytester, "-q") == [how]
