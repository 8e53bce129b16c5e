"""The table of device classes, and tables of one's own."""

import pytest
from page_tables import recorded

from peft_regress import registry
from peft_regress.catalogue.methods.selective import Selective
from peft_regress.errors import InputError
from peft_regress.project.devices import (
    RESERVE_BYTES,
    RUNTIME_BYTES,
    TORCH_ALONE,
    load_devices,
    process_bytes,
    room,
    runtime_of,
)

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
    text = '[{}]\ntitle = "a"\nmemory = "{}"\nstorage = "1 GB"\ncompute = "c"\nsource = "s"\n'
    path.write_text(text.format("mine", "64 MiB") + text.format("jetson-nano", "2 GiB"))
    found = {device.name: device for device in load_devices(path)}
    assert (found["mine"].memory_bytes, found["mine"].storage_bytes) == (2**26, 10**9)
    assert found["jetson-nano"].memory_bytes == 2**31
    assert found["mine"].reserve_bytes == RESERVE_BYTES
    again = {device.name: device for device in load_devices({"mine": {**MINE, "reserve": "0 B"}})}
    assert again["mine"].reserve_bytes == 0
    assert len(found) == len(load_devices()) + 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mine": {**MINE, "ram": "1 GB"}}, "unknown key of devices: mine 'ram'"),
        ({"mine": {"title": "x"}}, "devices: mine: Object missing required field `memory`"),
        ({"mine": {**MINE, "memory": "64"}}, "devices: mine: '64' is not an amount"),
        ({"mine": {**MINE, "memory": "1e400 MiB"}}, "mine: '1e400 MiB' is too large"),
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


@pytest.mark.parametrize("runtime", RUNTIME_BYTES)
def test_a_process_whose_tensors_take_the_room_takes_what_the_system_leaves(runtime):
    for device in load_devices():
        left = device.memory_bytes - device.reserve_bytes
        tensors = room(device, runtime)
        assert tensors >= 0
        if tensors:
            assert process_bytes(tensors, runtime) <= left < process_bytes(tensors + 2, runtime)
        else:
            assert process_bytes(1, runtime) > left


def test_pytorch_has_no_room_in_a_microcontroller_and_peft_takes_some_of_it():
    devices = {device.name: device for device in load_devices()}
    assert room(devices["esp32-p4"], "eager") == room(devices["stm32n6"], "eager") == 0
    assert room(devices["esp32-p4"], "executorch") > 0
    board = devices["raspberry-pi-3-b-plus"]
    assert 0 < room(board, "peft") < room(board, "eager") < room(board, "executorch")


def test_a_process_of_executorch_takes_its_file_and_at_most_the_runtime_besides():
    parts = ("edge_train_resident_bytes", "edge_train_bytes", "edge_train_program_bytes")
    stored = [record.metrics for record in recorded().values() if parts[0] in record.metrics]
    assert len(stored) > 40
    besides = [grown.value - plan.value - file.value for grown, plan, file in
               ([metrics[part] for part in parts] for metrics in stored)]  # fmt: skip
    assert RUNTIME_BYTES["executorch"] / 2 < max(besides) < RUNTIME_BYTES["executorch"]


def test_the_methods_without_peft_are_those_of_the_catalogue():
    methods = registry.items("method")
    selective = {one.name for one in methods if isinstance(one, Selective)}
    assert {one.name for one in methods if runtime_of(one.name) == "eager"} == selective
    assert selective >= TORCH_ALONE
    assert runtime_of("a-method-of-ones-own") == "peft"
