"""What the tests of pocket share."""

import pytest

from mmkp_jax.pocket.corpus import make_corpus
from mmkp_jax.pocket.posts import SEEN
from mmkp_jax.pocket.world import make_facts


@pytest.fixture(scope="session")
def corpus():
    """What the model is pretrained on."""
    return make_corpus(make_facts(0, SEEN).chains, 0)
