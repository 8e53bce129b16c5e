"""The table of device classes, and tables of one's own."""

import pytest

from peft_regress.devices import load_devices
from peft_regress.errors import InputError

MINE = {"title": "Mine", "memory": "64 MiB", "compute": "one core", "source": "the data sheet"}


def test_the_package_has_some_ten_real_devices_from_microcontrollers_to_boards():
    devices = load_devices()
    assert len(devices) >= 10
    sizes = [device.memory_bytes for device in devices]
    assert sizes == sorted(sizes)
    assert sizes[0] < 2**23 < 2**32 < sizes[-1]
    names = {device.name for device in devices}
    assert {"raspberry-pi-zero-2-w", "jetson-nano", "jetson-orin-nano", "stm32n6"} <= names
    for device in devices:
        assert all(part.startswith("https://") for part in device.source.split("; ")), device
        assert all((device.title, device.compute)), device


def test_a_table_of_ones_own_adds_to_it_and_replaces(tmp_path):
    path = tmp_path / "devices.toml"
    path.write_text(
        '[mine]\ntitle = "Mine"\nmemory = "64 MiB"\nstorage = "1 GB"\ncompute = "c"\nsource = "s"\n'
        '[jetson-nano]\ntitle = "2 GB"\nmemory = "2 GiB"\ncompute = "c"\nsource = "s"\n'
    )
    found = {device.name: device for device in load_devices(path)}
    assert (found["mine"].memory_bytes, found["mine"].storage_bytes) == (2**26, 10**9)
    assert found["jetson-nano"].memory_bytes == 2**31
    assert len(found) == len(load_devices()) + 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mine": {**MINE, "ram": "1 GB"}}, "unknown key of devices: mine 'ram'"),
        ({"mine": {"title": "x"}}, "devices: mine: Object missing required field `memory`"),
        ({"mine": {**MINE, "memory": "64"}}, "devices: mine: '64' is not an amount"),
        ({"mine": {**MINE, "memory": 64}}, "devices: mine: Expected `str`, got `int`"),
        ({"mine": {**MINE, "storage": "1 GFLOP"}}, "devices: mine: '1 GFLOP' is not"),
        ({"mine": 3}, "devices: mine: Expected `object`, got `int`"),
        ({"my board": MINE}, "devices: my board is not a name"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_device_and_key(table, message):
    with pytest.raises(InputError, match=message):
        load_devices(table)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"[", "not valid TOML"), (b"\xff", "TOML")]
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "devices.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_devices(path)
    assert str(path) in str(caught.value)
