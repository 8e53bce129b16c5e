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
    found = read_settings(tmp_path)
    assert found == Settings(folder=tmp_path, baselines=tmp_path / "baselines")
    assert (found.file, found.matrix) == (None, "default")


def test_a_file_of_budgets_is_read_only_if_the_settings_name_it(tmp_path):
    """Another project may have a benchmarks/budgets.toml of its own."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "budgets.toml").write_text("total = 3\n")
    assert read_settings(tmp_path).budgets is None
    _write(tmp_path, '[tool.peft_regress]\nbudgets = "mine.toml"\n')
    assert read_settings(tmp_path).budgets == tmp_path / "mine.toml"


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
    inner = tmp_path / "repository" / "src"
    inner.mkdir(parents=True)
    (tmp_path / "repository" / ".git").touch()  # a file, as in a worktree
    assert read_settings(inner).file is None
    assert read_settings(inner, root=tmp_path / "repository" / "src").file is None


def test_a_project_with_cases_takes_them_without_naming_a_matrix(tmp_path):
    _write(tmp_path, '[tool.peft_regress]\ncases = ["gates:GATES"]\n')
    assert read_settings(tmp_path).matrix == "own"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("cases = 'gates:GATES'", "Expected `array`, got `str` - at `$.cases`"),
        ("case = []", "Did you mean 'cases'"),
        ("cases = [1]", "Expected `str`, got `int` - at `$.cases[0]`"),
        ("matrix = 'my matrix'", "matrix = 'my matrix' is not the name of a matrix"),
        ("baselines = 3", "Expected `str`, got `int` - at `$.baselines`"),
        ("devices = ''", "Expected `str` of length >= 1 - at `$.devices`"),
        ("bounds = [{metrics = 'x'}]", "unknown field `metrics` - at `$.bounds[0]`"),
        ("bounds = ['x']", "Expected `object`, got `str` - at `$.bounds[0]`"),
        ("bounds = [{cases = '*', metric = 'loss', bound = 1}]", "field `reason`"),
        (
            "bounds = [{cases = '*', metric = 'loss', bound = '1', reason = 'r'}]",
            "Expected `float`, got `str` - at `$.bounds[0].bound`",
        ),
        (
            "bounds = [{cases = '*', metric = 'loss', bound = -1, reason = 'r'}]",
            "Expected `float` >= 0.0 - at `$.bounds[0].bound`",
        ),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(tmp_path, table, message):
    file = _write(tmp_path, f"[tool.peft_regress]\n{table}\n")
    with pytest.raises(InputError) as raised:
        read_settings(tmp_path)
    assert message in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[tool", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        (b"[tool]\npeft_regress = 1", r"\[tool.peft_regress\] in .*: Expected `object`, got `int`"),
    ],
)
def test_a_file_that_is_no_toml_or_no_table_is_refused(tmp_path, text, message):
    (tmp_path / "pyproject.toml").write_bytes(text)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path)
