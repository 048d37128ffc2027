"""What a config leaves to the limits and to the machine is written out before a run begins."""

import pytest

from configs import dyncot
from mmkp_jax.families.registry import define
from mmkp_jax.hf.preprocessor import read_settings, training_settings
from mmkp_jax.pages.dataset.feeding import read_batch_setup
from mmkp_jax.planning.workload import workload_of
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training import batches
from mmkp_jax.training.batches import complete_config
from tests.support.published import QWEN2_5_VL_3B
from tests.support.tiny import hf_config_dict
from tests.support.tiny_internvl import LAYOUTS, tiny_internvl, write_internvl

DEFINITION = define(hf_config_dict(QWEN2_5_VL_3B))


def completed(**row):
    config = dyncot.get_config("model=qwen2_5_vl_3b")
    config.row.update(row)
    return complete_config(config, DEFINITION, {})


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folders_own_limit_of_tiles_holds_where_the_config_gives_none(tmp_path, layout):
    """In a plan and in the dataset's page; `tests/pocket/test_variants.py` has a run."""
    write_internvl(tmp_path, tiny_internvl(max_tiles=3), layout)
    named = "configs/dyncot.py:model=internvl3_2b"
    for images, expected in (({}, 3), ({"max_tiles": 2}, 2)):
        fields = {"model.path": tmp_path, "data.path": "no/such/folder"}
        fields |= {f"data.images.{name}": value for name, value in images.items()}
        flags = [f"--config.{name}={value}" for name, value in fields.items()]
        assert workload_of(read_config(named, flags)).config.data.images.to_dict() == {"max_tiles": expected}
        _, batches = read_batch_setup(named, flags, tmp_path)
        assert batches.recipe.processor.settings == {"max_tiles": expected}


def test_qwens_published_limit_is_not_that_of_a_run(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"min_pixels": 3136, "max_pixels": 12845056}')
    assert read_settings(tmp_path, DEFINITION.family, DEFINITION.config)["max_pixels"] == 12_845_056
    images = training_settings(tmp_path, DEFINITION.family, DEFINITION.config)
    config = complete_config(dyncot.get_config("model=qwen2_5_vl_3b"), DEFINITION, images)
    assert config.data.images.to_dict() == {"min_pixels": 3136, "max_pixels": 451_584}
