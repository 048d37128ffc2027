"""Features of images from a model's tower, in the form that the traditional models read."""

import dataclasses

import numpy as np
import pytest

from mmkp_jax.baselines.setup import sidecars_of
from mmkp_jax.data.records import open_split
from mmkp_jax.errors import InputError
from mmkp_jax.inference.tower_regions import REGIONS, TowerRegions, runs_of
from mmkp_jax.runtime.baseline_fields import BASELINE_FIELDS
from mmkp_jax.runtime.config import default_config
from tests.support.small_pocket import small_pocket


def test_regions_are_means_of_runs_of_slots():
    value_SX = np.arange(3 * REGIONS + 1, dtype=np.float32)[:, None]
    region_RX = runs_of(value_SX)
    assert region_RX.shape == (REGIONS, 1)
    np.testing.assert_allclose(region_RX[:2, 0], [1.5, 5])  # the first run has one more
    np.testing.assert_array_equal(runs_of(value_SX[1:3])[:3, 0], [1, 2, 0])


def test_a_models_tower_gives_regions_by_image_which_are_kept(tmp_path):
    pocket = small_pocket(tmp_path)
    split = open_split(pocket / "dataset", "test")
    records = [split[0], split[1], dataclasses.replace(split[0], id="other"), dataclasses.replace(split[1], image=b"")]
    config = default_config(BASELINE_FIELDS)
    config.data.image_features = str(pocket / "model")
    regions = sidecars_of(config, None, lambda model: TowerRegions(model, tmp_path / "kept")).regions
    found = regions.read(records)
    assert found.shape == (4, *regions.shape) and regions.shape[0] == REGIONS
    np.testing.assert_array_equal(found[0], found[2])
    assert np.isfinite(found).all() and found[0].any() and (found[0] != found[1]).any() and not found[3].any()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*.features")}
    assert len(files) == 2
    again = TowerRegions(str(pocket / "model"), tmp_path / "kept").read(records)
    np.testing.assert_array_equal(again, found)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*.features")} == files
    np.testing.assert_array_equal(TowerRegions(str(pocket / "model")).read(records[:2]), found[:2])


def test_a_folder_without_features_and_model_is_refused_in_a_line(tmp_path):
    config = default_config(BASELINE_FIELDS)
    config.data.image_features = str(tmp_path)
    with pytest.raises(InputError, match="neither features nor a model"):
        sidecars_of(config, None, TowerRegions)
