"""What the tests of the teacher share."""

import pytest


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """The endpoint's key, in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-tests")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return "sk-secret-of-the-tests"
