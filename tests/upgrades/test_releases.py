"""Which releases lie between two, as the index has them."""

from __future__ import annotations

import pytest
from package_world import SETUP

from peft_regress.errors import AbsentError, InputError
from peft_regress.upgrades import bisect
from peft_regress.upgrades.bisect import BisectSettings, releases_between

FINAL = ["0.9.0", "0.10.0", "0.10.1", "1.0"]
WITH_PRE = ["0.9.0", "0.10.0rc1", "0.10.0", "0.10.1", "1.0.dev2", "1.0"]


@pytest.fixture
def between(monkeypatch):
    def released(package, *, pre, seconds):
        return [bisect._version(text) for text in (WITH_PRE if pre else FINAL)]

    monkeypatch.setattr(bisect, "released_versions", released)

    def call(good, bad):
        settings = BisectSettings(package="candy", good=good, bad=bad, setup=SETUP)
        return [str(one) for one in releases_between(settings)]

    return call


def test_releases_are_ordered_from_the_good_one_to_the_bad_one(between):
    assert between("0.9.0", "0.10.1") == ["0.9.0", "0.10.0", "0.10.1"]
    assert between("0.10.1", "0.9.0") == ["0.10.1", "0.10.0", "0.9.0"]
    assert between(" v0.10 ", "1") == ["0.10.0", "0.10.1", "1.0"]


def test_a_pre_release_is_included_as_an_end(between):
    assert between("0.10.0rc1", "1.0") == ["0.10.0rc1", "0.10.0", "0.10.1", "1.0"]


@pytest.mark.parametrize("good", ["", "newest", "==0.9.0", "0.9.0,1.0", "0.9.0\0", "0.9.*"])
def test_a_text_that_is_not_a_version_is_refused(between, good):
    with pytest.raises(InputError, match="is not a version"):
        between(good, "1.0")


def test_two_equal_releases_are_refused(between):
    with pytest.raises(InputError, match="both"):
        between("1.0", "1.0.0")


def test_an_absent_release_names_the_nearest_ones(between):
    with pytest.raises(AbsentError, match=r"no candy 0\.10\.2 for this Python.* 0\.10\.1"):
        between("0.9.0", "0.10.2")
