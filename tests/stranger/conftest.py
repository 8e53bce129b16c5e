"""The machine of a stranger, made once."""

import pytest
from strangers import Stranger, make_environment, make_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def environment(tmp_path_factory, wheel):
    return make_environment(tmp_path_factory.mktemp("environment"), wheel)


@pytest.fixture
def stranger(tmp_path, environment):
    made = Stranger(folder=tmp_path, environment=environment)
    # The action makes its environment here; what it needs was downloaded.
    make_environment(made.temp / "peft-regress")
    made.git("init", "--quiet")
    return made
