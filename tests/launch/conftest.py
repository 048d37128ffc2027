import pytest

from tests.support.launch_fakes import Fakes


@pytest.fixture
def fakes(tmp_path) -> Fakes:
    folder = tmp_path / "fakes"
    folder.mkdir()
    return Fakes(folder)
