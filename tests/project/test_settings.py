"""The table [tool.peft_regress]: where it is found, what may stand in it, what a message says."""

import pytest

from peft_regress.errors import InputError
from peft_regress.project.settings import BoundRule, Settings, read_settings


def _write(folder, table):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pyproject.toml"
    file.write_text(table)
    return file


def test_every_key_is_read_and_paths_are_relative_to_the_file(tmp_path):
    file = _write(
        tmp_path,
        """
        [tool.peft_regress]
        cases = ["pkg.gates:GATES", "pkg.more:CASE"]
        matrix = "edge"
        baselines = "data/accepted"
        bounds = [{cases = "photos/*", metric = "peak_bytes", bound = 0.02, reason = "allocator"}]
        devices = "devices.toml"
        budgets = "limits.toml"
        """,
    )
    (tmp_path / ".git").mkdir()
    assert read_settings(tmp_path / "deep" / "down") == Settings(
        folder=tmp_path,
        file=file,
        cases=("pkg.gates:GATES", "pkg.more:CASE"),
        matrix="edge",
        baselines=tmp_path / "data" / "accepted",
        bounds=(BoundRule(cases="photos/*", metric="peak_bytes", bound=0.02, reason="allocator"),),
        devices=tmp_path / "devices.toml",
        budgets=tmp_path / "limits.toml",
    )


def test_without_a_table_everything_is_as_usual_in_the_folder_itself(tmp_path):
    _write(tmp_path, "[tool.other]\nx = 1\n")
    # Another project may have one of its own: it is read only if the settings name it.
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "budgets.toml").write_text("total = 3\n")
    usual = Settings(folder=tmp_path, baselines=tmp_path / "baselines")
    assert read_settings(tmp_path) == usual
    assert (usual.file, usual.matrix, usual.budgets) == (None, "default", None)


def test_the_nearest_file_with_the_table_counts(tmp_path):
    """A package of a monorepo may have a pyproject.toml that does not name the gate."""
    (tmp_path / ".git").mkdir()
    file = _write(tmp_path, "[tool.peft_regress]\n")
    _write(tmp_path / "package", "[project]\nname = 'x'\n")
    own = _write(tmp_path / "other", "[tool.peft_regress]\nmatrix = 'edge'\n")
    assert read_settings(tmp_path / "package" / "src").file == file
    assert read_settings(tmp_path / "other" / "src").file == own


def test_a_file_above_the_repository_does_not_count(tmp_path):
    """It names code, and anybody may have put it there, as into /tmp."""
    _write(tmp_path, '[tool.peft_regress]\ncases = ["gates:GATES"]\n')
    assert read_settings(tmp_path).matrix == "own"  # a project with cases takes them
    inner = tmp_path / "repository" / "src"
    inner.mkdir(parents=True)
    (tmp_path / "repository" / ".git").touch()  # a file, as in a worktree
    assert read_settings(inner).file is None
    assert read_settings(inner, root=inner).file is None


BOUND = "cases = '*', metric = 'loss', bound = {}, reason = 'r'"
AT_BOUND = " - at `$.bounds[0].bound`"
TABLES = {
    "cases = 'gates:GATES'": "Expected `array`, got `str` - at `$.cases`",
    "case = []": "Did you mean 'cases'",
    "cases = [1]": "Expected `str`, got `int` - at `$.cases[0]`",
    "matrix = 'my matrix'": "matrix = 'my matrix' is not the name of a matrix",
    "baselines = 3": "Expected `str`, got `int` - at `$.baselines`",
    "devices = ''": "Expected `str` of length >= 1 - at `$.devices`",
    "bounds = [{metrics = 'x'}]": "unknown field `metrics` - at `$.bounds[0]`",
    "bounds = ['x']": "Expected `object`, got `str` - at `$.bounds[0]`",
    "bounds = [{cases = '*', metric = 'loss', bound = 1}]": "field `reason`",
    f"bounds = [{{{BOUND.format(repr('1'))}}}]": f"Expected `float`, got `str`{AT_BOUND}",
    f"bounds = [{{{BOUND.format(-1)}}}]": f"Expected `float` >= 0.0{AT_BOUND}",
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"[tool.peft_regress]\n{table}\n".encode(), said) for table, said in TABLES.items()),
        (b"[tool", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        (b"[tool]\npeft_regress = 1", "Expected `object`, got `int`"),
    ],
)
def test_a_file_with_something_else_is_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "pyproject.toml"
    file.write_bytes(text)
    with pytest.raises(InputError) as raised:
        read_settings(tmp_path)
    assert message in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
