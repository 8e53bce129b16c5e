"""Real releases: an example that fails by a known defect, and the release that brought it."""

from __future__ import annotations

import pytest
from fuzz_examples import example, finding, layer

from peft_fuzz.example import Failure
from peft_fuzz.search.ranges import Ranges


@pytest.mark.nightly
def test_the_release_that_brought_a_defect_is_found() -> None:
    """Since 0.12.0 LoHa keeps its weights in float32, and multiplies them by float16.

    It was mended in 0.16.0 (huggingface/peft#2433).
    """
    half = example(
        layer("linear", inputs=2, outputs=2), acts=(), method="loha", network={"dtype": "float16"}
    )
    failed = Failure(check="exception", act=-1, message="other dtypes", error="RuntimeError")
    said: list[str] = []
    one = finding(half, failed)
    found = Ranges([one], requirements=[], life_seconds=60, pip_seconds=300, say=said.append)
    found.find("0.13.2")
    one = found.of(one.name)
    assert not found.problem
    assert (one.first, one.last_good, one.between) == ("0.12.0", "0.11.1", ()), said
    assert one.undecided == {}
