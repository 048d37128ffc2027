"""A tiny model to decode with."""

import pytest

from tests.support.parity import ours_in
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return ours_in(tmp_path_factory.mktemp("ours"), tiny_config())
