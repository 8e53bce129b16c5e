"""Writing: atomic, whatever fails meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    full_disk,
    rich_run,
    write_run,
)

from peft_regress.errors import InputError
from peft_regress.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", ["replace", "fsync", "chmod", "fdopen"])
@pytest.mark.parametrize(
    ("failure", "expected"), [(full_disk, InputError), (interrupt, KeyboardInterrupt)]
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    failure: Callable[..., None],
    expected: type[BaseException],
) -> None:
    path = write_run(tmp_path / "run.json")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{function}", failure)
        with pytest.raises(expected):
            write_run(path, rich_run())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InputError, match=r"run\.json: cannot be written \(No space left.*Free"):
        write_atomic(tmp_path / "run.json", b"{}")


def test_a_folder_cannot_be_written_over(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path, b"{}")


def test_a_folder_that_is_a_file_is_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "run.json", b"{}")
