"""Features of images from a model's tower, in the form that the traditional models read."""

import dataclasses
import importlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.baselines.setup import sidecars_of
from mmkp_jax.data.records import open_split
from mmkp_jax.errors import InputError
from mmkp_jax.inference.tower_regions import REGIONS, TowerRegions, runs_of
from mmkp_jax.pocket.variants import make_variant
from mmkp_jax.runtime.baseline_fields import BASELINE_FIELDS
from mmkp_jax.runtime.config import default_config
from tests.support.small_pocket import small_pocket


def test_regions_are_means_of_runs_of_slots():
    value_SX = np.arange(3 * REGIONS + 1, dtype=np.float32)[:, None]
    region_RX = runs_of(value_SX)
    assert region_RX.shape == (REGIONS, 1)
    np.testing.assert_allclose(region_RX[:2, 0], [1.5, 5])  # the first run has one more
    np.testing.assert_array_equal(runs_of(value_SX[1:3])[:3, 0], [1, 2, 0])


def regions_of(model, *folders, **options):
    """As a run makes them from its config."""
    config = default_config(BASELINE_FIELDS)
    config.data.image_features = str(model)
    return sidecars_of(config, None, lambda model: TowerRegions(model, *folders, **options)).regions


def pictured(pocket):
    """The test posts that have an image."""
    split = open_split(pocket / "dataset", "test")
    return [split[number] for number in range(len(split)) if split[number].image]


def read(regions, records):
    kept = [regions.keep(record) for record in records]
    assert all(len(record.image) < 100 for record in kept)
    return regions.read(kept)


def variant(maker, pocket, monkeypatch):
    """The folder of pocket's model of another family."""
    monkeypatch.setattr("mmkp_jax.pocket.variants.make", lambda root: None)  # which a small pocket is not
    made = importlib.import_module(f"mmkp_jax.pocket.{maker}").VARIANT
    make_variant(made, pocket)
    return pocket.parent / made.name / "model"


def test_a_models_tower_gives_regions_by_image_which_are_kept(tmp_path):
    pocket = small_pocket(tmp_path)
    first, second, *_ = pictured(pocket)
    records = [first, second, dataclasses.replace(first, id="other"), dataclasses.replace(second, image=b"")]
    regions = regions_of(pocket / "model", tmp_path / "kept", keep=True)
    found = read(regions, records)
    assert found.shape == (4, *regions.shape) and regions.shape[0] == REGIONS
    np.testing.assert_array_equal(found[0], found[2])
    assert np.isfinite(found).all() and found[0].any() and (found[0] != found[1]).any() and not found[3].any()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*.features")}
    assert len(files) == 2
    again = read(regions_of(pocket / "model", tmp_path / "kept", keep=True), records)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(read(regions_of(pocket / "model", tmp_path / "kept"), records[:2]), found[:2])
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").rglob("*.features")} == files


def test_features_of_another_tower_are_not_mixed_with_a_runs(tmp_path):
    pocket = small_pocket(tmp_path)
    record = pictured(pocket)[0]
    read(regions_of(pocket / "model", tmp_path / "kept", keep=True), [record])
    file = pocket / "model/model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "visual" in name)
    save_file(tensors | {name: tensors[name] + 1}, file, {"format": "pt"})
    for keep in (True, False):  # a resumed run, and `predict`
        with pytest.raises(InputError, match="the run's features are of another tower"):
            regions_of(pocket / "model", tmp_path / "kept", keep=keep)


def test_internvls_tower_gives_its_vectors_tile_after_tile(tmp_path, monkeypatch):
    pocket = small_pocket(tmp_path)
    regions = regions_of(variant("internvl3", pocket, monkeypatch))
    found = read(regions, pictured(pocket)[:2])
    assert regions.shape[1] <= 1024 and np.isfinite(found).all() and (found[0] != found[1]).any()


def test_a_tower_whose_filling_cannot_be_told_apart_is_refused(tmp_path, monkeypatch):
    model = variant("mllama", small_pocket(tmp_path), monkeypatch)
    with pytest.raises(InputError, match="fills every image up"):
        regions_of(model)


def test_a_folder_without_features_and_model_is_refused_in_a_line(tmp_path):
    config = default_config(BASELINE_FIELDS)
    config.data.image_features = str(tmp_path)
    with pytest.raises(InputError, match="neither features nor a model"):
        sidecars_of(config, None, TowerRegions)
