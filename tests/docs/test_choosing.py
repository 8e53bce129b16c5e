"""docs/choosing.md: each number in its prose stands in a block that runs, or is computed here."""

import re

from examples import ROOT

from peft_regress.catalogue.evidence import read_evidence
from peft_regress.choosing.ranking import difference
from peft_regress.devices import load_devices, room

PAGE = (ROOT / "docs" / "choosing.md").read_text()
BLOCKS = "\n".join(re.findall(r"```.*?```", PAGE, flags=re.DOTALL))
PROSE = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", PAGE, flags=re.DOTALL)
OF_OTHERS = {"95", "512", "1", "3"}
"""The share of an interval, the device's MB, and exit codes: tests of their own have them."""


def test_each_number_of_the_prose_is_one_of_a_block_or_computed():
    scores = read_evidence().scores["unseen"]["mobilenet_v2"]
    below = -100 * difference(scores["bn_head"], scores["head"]).mean
    listed = set(re.findall(r"^(\d+)\. ", PROSE, flags=re.MULTILINE))
    known = set(re.findall(r"\d+(?:\.\d+)?", BLOCKS)) | {f"{below:.1f}"} | OF_OTHERS | listed
    used = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", PROSE))
    assert len(used) > 15
    assert used - known == set()


def test_nothing_but_executorch_fits_on_the_device_with_512_mb():
    (zero,) = [one for one in load_devices() if one.name == "raspberry-pi-zero-2-w"]
    assert zero.memory_bytes == 512 * 2**20
    assert room(zero, "eager") == room(zero, "peft") == 0
    assert room(zero, "executorch") > 0
