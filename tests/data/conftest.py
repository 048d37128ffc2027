"""What the tests of the data share: one small dataset and one recipe."""

import pytest

from tests.support.posts_on_disk import tiny_recipe, write_posts


@pytest.fixture(scope="session")
def split(tmp_path_factory):
    return write_posts(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    return tiny_recipe(tmp_path_factory.mktemp("tokenizer"))
