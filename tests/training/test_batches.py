"""What a config leaves to the limits and to the machine is written out before a run begins."""

import pytest

from configs import dyncot
from mmkp_jax.families.registry import define
from mmkp_jax.training import batches
from mmkp_jax.training.batches import complete_config
from tests.support.published import QWEN2_5_VL_3B
from tests.support.tiny import hf_config_dict

DEFINITION = define(hf_config_dict(QWEN2_5_VL_3B))


def completed(**row):
    config = dyncot.get_config("model=qwen2_5_vl_3b")
    config.row.update(row)
    return complete_config(config, DEFINITION)


@pytest.mark.parametrize(
    "row, expected",
    [
        ({}, 64 + 512 + 576 + 384 + 64),  # template, text, image, answer, keyphrases
        ({"tree_tokens": 1152}, 1152),
        ({"tokens": 1024}, 1024),  # no tree is longer than its row
    ],
)
def test_the_longest_tree_follows_from_the_limits_unless_it_is_given(row, expected):
    assert completed(**row).row.tree_tokens == expected


@pytest.mark.parametrize("cores, workers", [(2, 0), (3, 0), (4, 2), (64, 2)])
def test_few_cores_load_in_threads(monkeypatch, cores, workers):
    monkeypatch.setattr(batches, "usable_cores", lambda: cores)
    assert completed().data.workers == workers
