"""FLOPs against a count by hand, against XLA's own, and against the text of compiled steps."""

import dataclasses

import jax
import numpy as np
import pytest

from mmkp_jax.data.forest import Forest, map_arrays
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from
from mmkp_jax.models.flops import step_flops, tree_pairs, work_of, work_of_slots
from mmkp_jax.ops.attention import forest_mask, same_segment_mask
from mmkp_jax.planning.counts import count_program
from mmkp_jax.planning.hlo import parse_hlo
from mmkp_jax.training.batches import image_processor
from mmkp_jax.training.setup import plan_training
from tests.support.tiny import hf_config_dict, tiny_config
from tests.support.trees import forest_of, row_of
from tests.training.test_setup import ROWS, experiment

CONFIG = tiny_config()
DEFINITION = define_from(FAMILY, CONFIG)
FOREST = forest_of(ROWS, CONFIG)
TOWER = CONFIG.vision
FROZEN = ("tower",)


def by_hand() -> dict[str, float]:
    """A forward pass over `FOREST`, matrix by matrix, pairs counted in the masks that attention uses."""
    tokens, patches = int((FOREST.segment_BT > 0).sum()), int((FOREST.images.image_BP > 0).sum())
    merged, labels = int((FOREST.images.merged_BT >= 0).sum()), int(FOREST.weight_BM.sum())
    D, F, N, K, H = 64, 96, 4, 2, 16  # width, hidden, heads, key-value heads, head width: as tiny_config has them
    real_BT = FOREST.segment_BT > 0
    both_BTT = real_BT[:, :, None] & real_BT[:, None, :]
    token_pairs = int((np.asarray(forest_mask(FOREST.segment_BT, FOREST.branch_BT)) & both_BTT).sum())
    real_BP = FOREST.images.image_BP > 0
    picture_pairs = int(
        (np.asarray(same_segment_mask(FOREST.images.image_BP)) & real_BP[:, :, None] & real_BP[:, None, :]).sum()
    )
    window_pairs = sum(int(n) ** 2 for n in FOREST.images.window_BW.ravel())
    d, f = 32, 48  # of the tower, 4 layers of which 2 see whole images
    tower = 2 * patches * (3 * 14 * 14 * d)
    tower += 4 * 2 * patches * (3 * d * d + d * d + 3 * d * f)
    tower += 2 * (2 * 2 * d * picture_pairs) + 2 * (2 * 2 * d * window_pairs)
    layers = 3 * 2 * tokens * (D * N * H + 2 * D * K * H + N * H * D + 3 * D * F) + 3 * 4 * N * H * token_pairs
    return {
        "tower": tower,
        "projector": 2 * merged * (4 * d * 4 * d + 4 * d * D),
        "decoder": layers,
        "head": 2 * labels * D * 320,
    }


def test_a_step_equals_the_count_by_hand_and_frozen_parts_count_forward_only():
    flops, hand = step_flops(DEFINITION, FROZEN, work_of(FOREST, DEFINITION.processor)), by_hand()
    for part in DEFINITION.family.parts():
        assert flops[part].forward == pytest.approx(hand[part], rel=1e-12), part
    assert flops["tower"].backward == 0
    for part in ("projector", "decoder", "head"):
        assert flops[part].backward == pytest.approx(2 * hand[part], rel=1e-12), part


def test_without_a_frozen_tower_only_the_images_get_no_gradient():
    flops, hand = step_flops(DEFINITION, (), work_of(FOREST, DEFINITION.processor)), by_hand()
    patches = int((FOREST.images.image_BP > 0).sum())
    embedding = 2 * patches * 3 * 14 * 14 * 32
    assert flops["tower"].backward == pytest.approx(2 * hand["tower"] - embedding, rel=1e-12)


def test_a_frozen_decoder_still_passes_gradients_to_the_merger():
    flops = step_flops(DEFINITION, (*FROZEN, "decoder"), work_of(FOREST, DEFINITION.processor))
    pairs = 3 * 4 * 64 * work_of(FOREST, DEFINITION.processor).token_pairs
    assert flops["decoder"].backward == pytest.approx(flops["decoder"].forward + pairs, rel=1e-12)
    assert flops["head"].backward == flops["head"].forward


def test_pairs_of_trees_are_those_of_the_mask():
    segment_BT = np.ones((1, 9), np.int32)
    branch_BT = np.array([[0, 0, 0, 0, 2, 2, 2, 1, 1]], np.int32)
    assert tree_pairs(4, 2, 3) == np.asarray(forest_mask(segment_BT, branch_BT)).sum()


def compiled_step(model: Qwen2_5_VLConfig, forest: Forest, remat: bool | None) -> tuple[jax.stages.Compiled, float]:
    """A train step on one device, and the formula's count of all its slots."""
    config = experiment(compute_dtype="float32", remat=bool(remat), global_batch_size=len(forest.token_BT))
    plan = plan_training(config, hf_config_dict(model), devices=jax.devices()[:1])
    batch = map_arrays(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), forest)
    images = forest.images
    size = row_of(*(a.shape[1] for a in (forest.token_BT, images.image_BP, images.window_BW, forest.label_BM)), 1)
    work = work_of_slots(size, len(forest.token_BT), FAMILY, image_processor(config, plan.definition))
    flops = step_flops(plan.definition, config.freeze, work, remat=remat)
    with jax.set_mesh(plan.mesh):
        return plan.step.lower(plan.state, batch).compile(), sum(part.total for part in flops.values())


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_a_compiled_step_computes_all_slots_and_with_remat_the_layers_again(remat, monkeypatch):
    monkeypatch.setattr("mmkp_jax.ops.cross_entropy.BLOCK", 160)  # two blocks: logits of one would be kept after all
    compiled, formula = compiled_step(CONFIG, FOREST, remat)
    assert count_program(parse_hlo(compiled.as_text()), true_share=0.5).flops == pytest.approx(formula, rel=0.01)


@pytest.mark.nightly
def test_xlas_own_count_of_a_step_without_loops_is_the_formulas():
    """Layers that are wide, so that products are nearly all of it; one of each, as XLA counts a loop's body once."""
    tower = dataclasses.replace(
        TOWER, depth=1, hidden_size=256, intermediate_size=512, out_hidden_size=512, full_attention_layers=(0,)
    )
    wide = dict(hidden_size=512, intermediate_size=2048, num_heads=4, mrope_section=(16, 24, 24))
    model = tiny_config(num_layers=1, vision=tower, **wide)
    compiled, formula = compiled_step(model, FOREST, remat=None)
    assert formula <= compiled.cost_analysis()["flops"] <= 1.05 * formula
