"""Configs of earlier revisions are upgraded for every reader of a work directory."""

import copy
import json
import re

import pytest

from configs import dyncot
from mmkp_jax.errors import InputError
from mmkp_jax.inference.run_config import run_config
from mmkp_jax.pages.report.run_files import read_config_file
from mmkp_jax.runtime.old_configs import upgrade
from mmkp_jax.training.workdir import claim

TODAY = json.loads(json.dumps(dyncot.get_config("model=pocket").to_dict()))

REAL = json.loads(json.dumps(dyncot.get_config("model=qwen2_5_vl_3b").to_dict()))


def as_of_old(config, *, lacking=()):
    """A config of a revision with separate fields for a row's slots and image limits."""
    old = copy.deepcopy(config)
    old["row"] |= old["row"].pop("images")
    old["data"] |= old["data"].pop("images")
    for name in lacking:
        del old[name]
    return old


OLD = as_of_old(TODAY, lacking=("posts_per_step", "moments_dtype", "moments_memory", "hang_seconds", "valid_posts"))


def test_a_current_config_is_unchanged():
    assert upgrade(TODAY) == TODAY and upgrade(REAL) == REAL


def test_moved_fields_are_renamed_and_missing_ones_get_the_values_of_the_run():
    before = copy.deepcopy(OLD)
    assert upgrade(OLD) == TODAY
    assert before == OLD


def test_frozen_parts_get_their_current_name():
    assert upgrade(REAL | {"freeze": ["visual.patch_embed", "visual.blocks"]}) == REAL
    other = REAL | {"freeze": ["visual.blocks"]}
    assert upgrade(other) == other


@pytest.mark.parametrize(
    "damage, what",
    [
        ({"row": 3}, "'row' is 3, not an object"),
        ({"data": None}, "'data' is null, not an object"),
        ({"row": {"images": "all", "patches": 4}}, "'row.images' is \"all\", not a mapping of names to whole numbers"),
        ({"freeze": {}}, "'freeze' is an object, not a list of texts"),
        ({"gamma": "high", "seed": -1}, "'seed' is -1, not a whole number from 0; 'gamma' is \"high\", not a number"),
    ],
)
def test_damage_is_kept_for_the_checks_that_report_it(damage, what, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD | damage))
    with pytest.raises(InputError, match=re.escape(what)):
        run_config(tmp_path)


def test_every_reader_of_a_work_directory_reads_an_old_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    assert json.loads(json.dumps(run_config(tmp_path).to_dict())) == TODAY
    assert read_config_file(tmp_path / "config.json") == TODAY
    assert claim(tmp_path, TODAY, same=lambda *_: False)
    assert json.loads((tmp_path / "config.json").read_text()) == TODAY


def test_a_value_that_differs_from_the_runs_is_another_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    with pytest.raises(InputError, match=r"another config: posts_per_step \(was 0, now 2\)"):
        claim(tmp_path, TODAY | {"posts_per_step": 2})
    with pytest.raises(
        InputError, match=r"row.images.patches \(was 208, now 9\); .* \(--config.row.images.patches=208\)"
    ):
        claim(tmp_path, TODAY | {"row": TODAY["row"] | {"images": {"patches": 9, "windows": 6}}})
