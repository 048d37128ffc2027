"""InternVL3's work: FLOPs by a plain count, tiles that are limited, and rows as a plan sees them."""

import pytest

from configs import dyncot
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import step_flops, work_of
from mmkp_jax.models.lora import Lora
from mmkp_jax.planning.workload import typical_load
from mmkp_jax.training.batches import complete_config
from tests.support.zoo import forest_of, model_of, random_tree


@pytest.mark.parametrize(
    "size, tiles, tower, decoder", [("2B", 1, 0.72, 0.94), ("2B", 13, 9.4, 10.0), ("8B", 7, 5.1, 25.4)]
)
def test_a_post_of_100_text_tokens_costs_what_was_counted_apart(size, tiles, tower, decoder):
    """TFLOP of a forward pass, to two digits, by a count of products on paper."""
    definition = define(known_config(f"OpenGVLab/InternVL3-{size}-hf"))
    tokens = 100 + 256 * tiles
    work = Work(tokens, 0, tokens * (tokens + 1) / 2, {"tiles": tiles})
    found = step_flops(definition, ("tower",), work)
    assert found["tower"].forward / 1e12 == pytest.approx(tower, rel=0.02)
    assert found["tower"].backward == 0
    assert (found["decoder"].forward + found["projector"].forward) / 1e12 == pytest.approx(decoder, rel=0.03)
    assert found["projector"].backward == 2 * found["projector"].forward


def test_work_counts_filled_tiles_and_every_allowed_pair_of_tokens():
    model = model_of("internvl")
    tree = random_tree(0, model, images=[1, 0], cot=0)
    work = work_of(forest_of([[tree], []], model, spare=2), model.processor)
    tokens = len(tree.prompt) - 1 + len(tree.sft)
    assert work.images == {"tiles": sum(layout.slots[0] for layout in tree.layouts)}
    assert (work.tokens, work.token_pairs) == (tokens, tokens * (tokens + 1) / 2)
    assert model.processor.work_of_slots({"tiles": 5}) == {"tiles": 5.0}


def test_under_lora_the_first_matrix_of_the_projector_passes_no_gradient_on():
    """up [128, 64] and down [64, 64], with adapters of rank 4: only what is between `up`'s A and the end gets one."""
    model = model_of("internvl")
    work = work_of(forest_of([[random_tree(0, model, images=[1])]], model, spare=2), model.processor)
    merged = 2 * 4 * work.images["tiles"]
    for lora in (Lora(4, 8.0), None):
        backward = step_flops(define(model.published, lora=lora), ("tower",), work)["projector"].backward
        up, down, every_a, every_b = 128 * 64, 64 * 64, 4 * 128 + 4 * 64, 2 * 4 * 64
        to_inputs, to_matrices = down + 4 * 64 + every_b, every_a + every_b
        needed = to_inputs + to_matrices if lora else 2 * (up + down)  # the norm before `up` trains without LoRA
        assert backward == pytest.approx(merged * needed, rel=1e-12)


def load_at(max_tiles: int):
    definition = define(known_config("OpenGVLab/InternVL3-2B-hf"))
    config = dyncot.get_config("model=internvl3_2b,data=mmkp_v2")
    config.data.images = {"max_tiles": max_tiles}
    config.row.update(labels=4096, examples=64)  # so that tokens bind
    config.data.path = "no/such/folder"
    config = complete_config(config, definition, {})
    return config, typical_load(config, definition)


def test_a_plan_knows_what_the_limit_of_tiles_saves():
    """Of usual images eight tiles a post at 12, and fewer at a smaller limit: more posts a row, fewer steps."""
    loads = {most: load_at(most)[1] for most in (1, 6, 12)}
    tiles = {most: load.work.images["tiles"] / load.posts for most, load in loads.items()}
    assert tiles[12] == pytest.approx(8) and tiles[1] == pytest.approx(1) and 4 < tiles[6] < 6
    assert loads[1].posts > 3 * loads[6].posts > 3 * 1.5 * loads[12].posts
    assert loads[1].steps < loads[6].steps < loads[12].steps


def test_the_longest_tree_has_room_for_an_image_at_the_limit():
    config, _ = load_at(12)
    assert config.row.images.to_dict() == {"tiles": 32} and config.data.images.to_dict() == {"max_tiles": 12}
    assert 3328 + config.data.max_text_tokens + config.answer_tokens < config.row.tree_tokens < 8192
    assert load_at(1)[0].row.tree_tokens == config.row.tree_tokens - 12 * 256
