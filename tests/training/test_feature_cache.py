"""A run's cache of features: filled once, resumed to the same bytes, read in place of images; mistakes are one line."""

import contextlib
import io
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import dyncot
from mmkp_jax.data.forest import map_arrays
from mmkp_jax.data.pipeline import batches
from mmkp_jax.errors import InputError
from mmkp_jax.models.definition import random_params
from mmkp_jax.models.freezing import join_params, split_params
from mmkp_jax.planning.workload import Workload
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.batches import plan_posts
from mmkp_jax.training.feature_cache import SPARE, feed_of, in_units, planned_features
from mmkp_jax.training.setup import plan_training
from mmkp_jax.training.step import init_state
from tests.support.posts_on_disk import SIZE, tiny_recipe, write_posts
from tests.support.small_pocket import metrics, run_here, small_pocket
from tests.support.tiny import hf_config_dict, tiny_config

POSTS, IMAGES = 11, 9
"""In batches of four: a row of a step has room for four of the largest image. The last batch has padding."""


class Job(SimpleNamespace):
    """A run that is set up as `main` does it, without a work directory."""

    def feed(self, stopped=lambda: False, **fields):
        config = self.config.copy_and_resolve_references()
        config.update(fields)
        return feed_of(config, self.plan, self.state, self.training, stopped)

    def files(self):
        return {file.name: file.read_bytes() for file in self.folder.rglob("*.features")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    write_posts(root / "posts", POSTS)
    config = dyncot.get_config("model=qwen2_5_vl_3b")
    config.row.update(SIZE.__dict__)
    config.update(global_batch_size=1, remat=False, num_epochs=1, compute_dtype="float32", frozen_dtype="float32")
    config.data.update(path=str(root / "posts" / "out"), workers=0, images={"min_pixels": 3136, "max_pixels": 12544})
    plan = plan_training(config, hf_config_dict(tiny_config()), devices=jax.devices()[:1], total_steps=9)
    params = split_params(random_params(plan.definition, 0, spread=0.1), plan.definition.family.paths(config.freeze))
    state = init_state(*params, plan.optimizer, plan.gamma_schedule)
    training = plan_posts(config, tiny_recipe(root / "tokenizer"))
    return Job(config=config, plan=plan, state=state, training=training, folder=root / "features")


@pytest.fixture(scope="module")
def filled(made):
    """The job with all features in its folder, and what was printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        job_in(made, made.folder).feed()
    return made, out.getvalue()


@pytest.fixture
def job(filled, tmp_path):
    """The job, with a copy of all features."""
    shutil.copytree(filled[0].folder, tmp_path / "features")
    return job_in(filled[0], tmp_path / "features")


def job_in(made, folder):
    config = made.config.copy_and_resolve_references()
    config.data.features = str(folder)
    return Job(config=config, plan=made.plan, state=made.state, training=made.training, folder=folder)


def test_the_cache_is_filled_once_and_rows_hold_it_in_place_of_pixels(job, filled, capsys):
    assert f"features: {IMAGES} images, " in filled[1] and f"; {IMAGES} to compute: " in filled[1]
    assert len(job.files()) == IMAGES
    feed = job.feed()
    assert capsys.readouterr().out.endswith("; all there\n")
    params, plans = join_params(job.state["trainable"], job.state["frozen"]), job.training.plans
    encode = jax.jit(lambda images: job.plan.definition.bind(params).encode(images, np.float32))
    for (_, features), (_, pixels) in zip(batches(feed, plans), batches(job.training.feed, plans), strict=True):
        is_filled, found = pixels.images.image_BP > 0, features.images.patch_BPC
        expected = np.asarray(encode(pixels.images))
        np.testing.assert_allclose(found[is_filled], expected[is_filled], rtol=1e-5, atol=1e-5)
        assert not found[~is_filled].any()
        same = features._replace(images=features.images._replace(patch_BPC=pixels.images.patch_BPC))
        map_arrays(np.testing.assert_array_equal, same, pixels)


def test_a_pass_that_is_stopped_and_resumed_writes_the_same_bytes(job):
    whole = job.files()
    shutil.rmtree(job.folder)
    asked = iter([False, True])
    assert job.feed(stopped=lambda: next(asked)) is None
    part = job.files()
    assert len(part) == 4 and whole.items() >= part.items()
    job.feed()
    assert job.files() == whole
    for name in sorted(whole)[1::3]:  # others are computed in other rows than before
        (file,) = job.folder.rglob(name)
        file.unlink()
    job.feed()
    assert job.files() == whole


def test_another_tower_has_its_own_features(job):
    state = job.state
    moved = jax.tree.map(lambda leaf: leaf * np.float32(1.01), state["frozen"])
    job.state = state | {"frozen": moved}
    job.feed()
    assert len(list(job.folder.rglob("*.features"))) == 2 * IMAGES
    job.state = state | {"trainable": jax.tree.map(lambda leaf: leaf + 1, state["trainable"])}
    job.feed()  # the features of the first tower: what trains does not matter
    assert len(list(job.folder.rglob("*.features"))) == 2 * IMAGES


def test_a_damaged_file_ends_a_run_with_one_line_and_is_computed_again_once_it_is_deleted(job):
    feed, files = job.feed(), job.files()
    (file,) = job.folder.rglob(min(files))
    file.write_bytes(files[file.name][:-4] + b"abcd")
    with pytest.raises(InputError, match=f"{file.name}: these features are damaged"):
        list(batches(feed, job.training.plans))
    file.unlink()
    list(batches(job.feed(), job.training.plans))
    assert job.files() == files


def test_a_full_disk_is_one_line_before_anything_is_computed(job, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SPARE + 1000))
    shutil.rmtree(job.folder)
    with pytest.raises(InputError) as error:
        job.feed()
    assert f"the features of {IMAGES} images take" in str(error.value) and "67.1 MB are free" in str(error.value)
    assert str(error.value).startswith(f"config.data.features={job.folder}: ")
    assert job.files() == {}


def test_a_folder_that_cannot_be_written_is_one_line(job, tmp_path):
    (tmp_path / "file").write_text("")
    job.config.data.features = str(tmp_path / "file" / "inside")
    with pytest.raises(InputError, match=r"the folder cannot be written \(Not a directory\); give another folder"):
        job.feed()


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"freeze": ("decoder",)}, "visual.blocks.mlp.down.bias trains, and features depend on it (config.freeze)"),
        ({"freeze": ("visual.blocks",)}, "visual.patch_embed.weight trains, and features depend on it (config.freeze)"),
    ],
)
def test_a_tower_that_trains_is_reported_and_not_cached(job, capsys, fields, reason):
    assert job.feed(**fields) is job.training.feed
    assert capsys.readouterr().out == f"note: data.features={job.folder} has no effect: {reason}\n"
    assert len(job.files()) == IMAGES


def test_a_bucket_is_refused_before_anything_heavy_is_imported():
    with pytest.raises(InputError, match=r"config\.data\.features: gs:// is not a local path"):
        read_config("configs/dyncot.py", ["--config.data.features=gs://bucket/features"])


def test_a_run_without_the_setting_reads_images(made):
    assert made.feed() is made.training.feed


def test_a_plan_knows_whether_rows_hold_features(job):
    definition = job.plan.definition
    assert planned_features(job.config, definition) == (tiny_config().vision.hidden_size, "float32")
    workload = Workload(job.config, {}, "", definition, None)
    assert workload.features
    job.config.freeze = ()
    assert not Workload(job.config, {}, "", definition, None).features


@pytest.mark.parametrize(
    "number, text", [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (4_564_224, "4.56 MB"), (1.57e11, "157 GB")]
)
def test_bytes_are_given_in_a_unit_that_suits_them(number, text):
    assert in_units(number) == text


@pytest.mark.nightly
def test_a_run_with_features_has_the_losses_of_one_without_and_the_same_with_features_made_anew(tmp_path):
    """In float32, 1e-5: the tower's products are summed in another order, as its rows have another length."""
    pocket = small_pocket(tmp_path)
    flags = ["--config.compute_dtype=float32", "--config.freeze=tower", "--config.eval_posts=1"]
    features = f"--config.data.features={tmp_path / 'features'}"

    def run(name, *more):
        done = run_here(pocket, f"--workdir={tmp_path / name}", *flags, *more)
        assert done.returncode == 0, done.stderr
        lines = metrics(tmp_path / name)
        return [[line[name] for name in ("loss", "loss_sft", "grad_norm", "cot_share", "gamma")] for line in lines]

    without, first = run("without"), run("first", features)
    np.testing.assert_allclose(first, without, rtol=1e-5)
    shutil.rmtree(tmp_path / "features")
    assert run("second", features) == first
