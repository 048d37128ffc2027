"""What planning knows of models and data before it compiles: geometries, posts a row, and the work in them."""

import pytest

from configs import dyncot
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import known_config
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.models.flops import work_of
from mmkp_jax.planning.workload import published_config, workload_of
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.batches import plan_posts, recipe_of
from tests.support.small_pocket import TRAINED_ON, command, small_pocket


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-3B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"])
def test_known_models_need_no_hub(name):
    assert published_config(name) == (dict(known_config(name)), name)


def test_an_unknown_model_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"its config.json is not here"):
        published_config("nobody/nothing")


@pytest.mark.parametrize("model", ["qwen2_5_vl_3b", "qwen2_5_vl_7b"])
def test_without_data_rows_hold_typical_posts(model):
    """5.94 posts a row, 0.96 of the tokens (`benchmarks/packing.py`)."""
    config = dyncot.get_config(f"model={model},data=mmkp_v2")
    config.data.path = "no/such/folder"
    load = workload_of(config).load
    assert load.posts == pytest.approx(5.94, rel=0.01) and "typical" in load.source
    assert load.work.tokens == pytest.approx(0.96 * config.row.tokens, rel=0.01)
    assert load.steps == pytest.approx(config.num_epochs * 34_515 / load.posts / 8, rel=0.01)


@pytest.mark.parametrize("model", ["qwen2_5_3b", "llama3_2_3b"])
@pytest.mark.parametrize("strategy, tokens", [("dyncot", 0.9), ("sft", 0.9)])
def test_rows_of_text_models_are_filled_by_posts_without_images(model, strategy, tokens):
    """Neither label slots nor posts a row are full before the tokens are."""
    config = dyncot.get_config(f"model={model},data=mmkp_v2")
    config.data.path, config.strategy = "no/such/folder", strategy
    load = workload_of(config).load
    assert load.work.images == {} and load.work.tokens >= tokens * config.row.tokens
    assert load.posts > (15 if strategy == "dyncot" else 40)


def test_with_data_the_work_is_what_the_rows_hold(tmp_path):
    """Of an epoch, by the index alone, against the packed rows."""
    pocket = small_pocket(tmp_path)
    flags = [each for each in command(pocket) if each.startswith("--config.")]
    workload = workload_of(read_config("configs/dyncot.py", flags))
    assert f"{TRAINED_ON} posts" in workload.load.source
    recipe = recipe_of(workload.config, workload.definition, load_tokenizer(open_folder(str(pocket / "model"))))
    training = plan_posts(workload.config, recipe)
    plan = training.plans[0]
    held = work_of(training.feed.load([row for batch in plan for row in batch]), recipe.processor)
    expected = workload.load.work.times(plan.rows)
    for name in ("tokens", "labels", "token_pairs"):
        assert getattr(expected, name) == pytest.approx(getattr(held, name), rel=1e-9), name
    for name in ("patches", "merged", "image_pairs"):
        assert expected.images[name] == pytest.approx(held.images[name], rel=1e-9), name
    in_windows = expected.images["window_pairs"], held.images["window_pairs"]
    assert in_windows[0] == pytest.approx(in_windows[1], rel=0.2)  # windows of an image count as equal
    assert workload.load.posts == pytest.approx(len(plan.post_N) / plan.rows)
    assert workload.load.steps == 12
