"""Writing: atomic, whatever fails meanwhile."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from builders import full_disk, rich_run, write_run

from peft_regress.errors import InputError
from peft_regress.files import write_atomic


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("failure", "expected"), [(full_disk, InputError), (interrupt, KeyboardInterrupt)]
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path, monkeypatch, function, failure, expected
):
    path = write_run(tmp_path / "run.json")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{function}", failure)
        with pytest.raises(expected):
            write_run(path, rich_run())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_a_clear_error_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("", "file/run.json"):
        with pytest.raises(InputError, match="cannot be written"):
            write_atomic(tmp_path / name, b"{}")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match=r"run\.json: cannot be written \(No space left.*Free"):
        write_atomic(tmp_path / "run.json", b"{}")


WRITE = """
import sys
from pathlib import Path
from peft_regress.files import write_atomic
write_atomic(Path(sys.argv[1]), b"summary\\n")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_the_output_stream_is_written_to_and_not_replaced(tmp_path, name):
    with (tmp_path / "out.txt").open("w") as out:
        subprocess.run((sys.executable, "-c", WRITE, name), check=True, stdout=out)
    assert (tmp_path / "out.txt").read_text() == "summary\n"
    assert os.path.islink("/dev/stdout")  # noqa: PTH114


def test_a_fifo_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "fifo").read_bytes)
        write_atomic(tmp_path / "fifo", b"summary")
        assert read.result(10) == b"summary"
    assert (tmp_path / "fifo").is_fifo()
