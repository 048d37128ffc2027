"""The order of the tests: files with slow ones first, so that no worker ends alone with one of them."""

import collections

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # which keeps the order within a file, and of files with as many
