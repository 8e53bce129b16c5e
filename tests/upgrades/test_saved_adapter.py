"""A folder with a saved adapter, as far as it is read without torch; and ranges of releases."""

import json

import pytest
from packaging.version import Version

from peft_regress.errors import AbsentError, InputError
from peft_regress.upgrades.compat.adapter import read_adapter
from peft_regress.upgrades.compat.compat import chosen_releases

# A header of eight bytes, then names, types, shapes and places; here one tensor of four bytes.
HEADER = json.dumps({"a.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(4)
KNOWN = [Version(text) for text in ("0.10.0", "0.11.0", "0.11.1", "0.14.0", "0.15.2", "0.21.2")]


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "peft_version": "0.19.1"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(WHOLE)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "release"),
    [
        ("0.19.1", "0.19.1"),
        ("0.19.0.dev0@abc", "0.19.0.dev0"),
        ("?", None),
        ("", None),
        (None, None),
    ],
)
def test_who_saved_it_is_known_if_the_file_says_a_version(saved, written, release):
    text = json.dumps({"peft_type": "LORA", "peft_version": written})
    (saved / "adapter_config.json").write_text(text)
    adapter = read_adapter(saved)
    assert (adapter.kind, adapter.saved_by) == ("LORA", release and Version(release))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", None, "has no adapter_config.json; name the folder"),
        ("adapter_config.json", b'{"peft_type": ', "is no JSON"),
        ("adapter_config.json", b'{"peft_type": 3}', "has no peft_type"),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_model.safetensors", WHOLE[:-1], "no whole safetensors file"),
        ("adapter_model.bin", b"", r"a pickle, which is not opened.*safe_serialization=True"),
    ],
)
def test_a_broken_adapter_is_one_line_with_a_remedy(saved, name, content, message):
    for file in saved.glob(f"{name.partition('.')[0]}.*"):
        file.unlink()
    if content is not None:
        (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_adapter(saved)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"megatron_core": "adapter.evil", "megatron_config": {"hidden_size": 1}},
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"peft_type": "XLORA", "adapters": {"0": "/elsewhere"}},
    ],
)
def test_a_configuration_that_lets_a_release_run_other_code_is_refused(saved, fields):
    file = saved / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "megatron_core": "megatron.core"}))
    read_adapter(saved)  # as peft writes it
    file.write_text(json.dumps({"peft_type": "LORA", **fields}))
    with pytest.raises(InputError, match="which a release may run; if you trust it"):
        read_adapter(saved)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.11.0..0.14.0", "0.11.0 0.11.1 0.14.0"),
        ("0.14..", "0.14.0 0.15.2 0.21.2"),
        ("..0.11", "0.10.0 0.11.0"),
        ("..", "0.10.0 0.11.0 0.11.1 0.14.0 0.15.2 0.21.2"),
        ("0.21.2, 0.10.0", "0.10.0 0.21.2"),
        ("0.10.0..0.11.0,0.11.0,0.9.0", "0.9.0 0.10.0 0.11.0"),
    ],
)
def test_a_range_names_releases_and_both_ends_belong_to_it(text, expected):
    assert " ".join(map(str, chosen_releases(text, KNOWN))) == expected


NO_RANGES = ("", "newest", "0.14.0,", "0.10.0...0.14", "0.10-0.14", "a..b")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        *((text, InputError, r"is not a release: write 0\.14\.0, a range") for text in NO_RANGES),
        *(
            (text, AbsentError, r"no release of peft.*0\.10\.0 to 0\.21\.2")
            for text in ("0.14.0..0.10.0", "1.0..")
        ),
    ],
)
def test_a_text_that_is_no_range_of_releases_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        chosen_releases(text, KNOWN)
