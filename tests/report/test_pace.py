"""How long the rest of some work takes, without a claim before there is evidence."""

from __future__ import annotations

import pytest

from peft_regress.report.terminal import Pace, time_left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "about 5 s"),
        (41, "about 40 s"),
        (57.4, "about 55 s"),
        (57.6, "about 1 min"),
        (770, "about 13 min"),
        (3600, "about 1 h 0 min"),
        (4199, "about 1 h 10 min"),
    ],
)
def test_a_time_reads_as_people_give_it(seconds, words):
    assert time_left(seconds) == words


def test_a_pace_needs_two_cases_and_ends_before_the_last():
    pace = Pace()
    said = [pace.left(done, 4, 100.0 + 30 * done) for done in (1, 2, 3, 4)]
    assert said == ["", ", about 1 min left", ", about 30 s left", ""]
