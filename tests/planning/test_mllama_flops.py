"""FLOPs of Llama 3.2 Vision against a count by hand, the pairs that attention sees, and a compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import map_arrays
from mmkp_jax.families.mllama.tower import intervals_of
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import step_flops, work_of, work_of_slots
from mmkp_jax.models.lora import Lora
from mmkp_jax.planning.counts import count_program
from mmkp_jax.planning.hlo import parse_hlo
from mmkp_jax.training.setup import plan_training
from tests.support.zoo import forest_of, model_of, random_tree, row_size
from tests.training.test_setup import experiment

MODEL = model_of("mllama")
ROWS = [
    [random_tree(0, MODEL, images=[1], cot=11), random_tree(1, MODEL, images=[]), random_tree(2, MODEL, images=[0, 2])],
    [random_tree(3, MODEL, images=[2])],
]
FOREST = forest_of(ROWS, MODEL, spare=2)
WORK = work_of(FOREST, MODEL.processor)


def test_pairs_are_those_that_attention_sees():
    forest = jax.tree.map(jnp.asarray, FOREST)
    config, B = MODEL.definition.config, len(FOREST.segment_BT)
    features = jnp.zeros((B, FOREST.images.canvas_BJ.shape[1] * 4 * 17, config.vision.features))
    memory = MODEL.definition.bind(MODEL.params).memory(forest, features, jnp.float32)
    assert WORK.images["cross_pairs"] == int((memory.end_BT - memory.first_BT).sum())
    canvas_N = FOREST.images.canvas_BJ[FOREST.images.canvas_BJ > 0]
    first, end = intervals_of(jnp.asarray(canvas_N), config.vision)
    assert WORK.images["tower_pairs"] == int((end - first).sum())
    assert (WORK.images["images"], WORK.images["tiles"]) == (4, 2 + 1 + 3 + 3)


def test_a_forward_pass_equals_the_count_by_hand():
    """Width 64, hidden 96, 4 heads and 2 kv heads of 16; tower 32, hidden 48, 4 + 2 layers, 24 tokens a tile."""
    D, F, N, K, H, d, f = 64, 96, 4, 2, 16, 32, 48
    images, tokens = WORK.images["images"], WORK.tokens
    tower = 2 * WORK.images["tiles"] * 16 * 588 * d
    tower += 6 * (2 * images * 4 * 24 * (4 * d * d + 2 * d * f) + 4 * d * WORK.images["tower_pairs"])
    keys, mlp = images * 4 * 17, 3 * D * F
    own = 2 * tokens * (2 * D * N * H + 2 * D * K * H + mlp) + 4 * N * H * WORK.token_pairs
    cross = 2 * tokens * (2 * D * N * H + mlp) + 2 * keys * 2 * D * K * H + 4 * N * H * WORK.images["cross_pairs"]
    expected = {
        "tower": tower,
        "projector": 2 * keys * 96 * D,
        "decoder": 4 * own + cross,
        "head": 2 * WORK.labels * D * 320,
    }
    flops = step_flops(MODEL.definition, ("tower",), WORK)
    for part, count in expected.items():
        assert flops[part].forward == pytest.approx(count, rel=1e-12), part
        assert flops[part].backward == (0 if part == "tower" else pytest.approx(2 * count - _unneeded(part, expected)))


def _unneeded(part: str, forward: dict[str, float]) -> float:
    """The gradient of what comes from the frozen tower: it goes nowhere."""
    return forward["projector"] if part == "projector" else 0.0


def test_under_lora_what_comes_from_the_frozen_tower_gets_no_gradient():
    """Of the projector's adapter, A [96, 4] has the gradient of its numbers alone, and B [4, 64] its input's too."""
    definition = define(MODEL.published, lora=Lora(4, 8.0))
    keys = WORK.images["images"] * 4 * 17
    backward = step_flops(definition, ("tower",), WORK)["projector"].backward
    assert backward == pytest.approx(2 * keys * (96 * 4 + 2 * 4 * 64), rel=1e-12)


def test_an_image_of_the_published_model_costs_what_is_known():
    """ZOO's figures for four full tiles: 18.6 TFLOP in the tower, 10.0 in the base's."""
    for hub_id, known in (("Llama-3.2-11B-Vision-Instruct", 18.6e12), ("Llama-3.2-11B-Vision", 10.0e12)):
        definition = define(known_config(f"meta-llama/{hub_id}"))
        images = definition.processor.work_of_posts(np.array([[1]]), np.array([250]))
        work = Work(tokens=250, labels=150, token_pairs=250 * 251 / 2, images=images)
        assert step_flops(definition, ("tower",), work)["tower"].forward == pytest.approx(known, rel=0.02)


@pytest.mark.nightly
@pytest.mark.parametrize("remat", [False, True])
def test_a_compiled_step_computes_all_slots_and_with_remat_the_layers_again(remat, monkeypatch):
    monkeypatch.setattr("mmkp_jax.ops.cross_entropy.BLOCK", 160)  # two blocks: logits of one would be kept after all
    config = experiment(compute_dtype="float32", remat=remat, global_batch_size=len(ROWS))
    plan = plan_training(config, MODEL.published, devices=jax.devices()[:1])
    batch = map_arrays(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), FOREST)
    work = work_of_slots(row_size(ROWS, MODEL.processor, spare=2), len(ROWS), plan.definition.family, MODEL.processor)
    formula = sum(part.total for part in step_flops(plan.definition, config.freeze, work, remat=remat).values())
    with jax.set_mesh(plan.mesh):
        compiled = plan.step.lower(plan.state, batch).compile()
    assert count_program(parse_hlo(compiled.as_text()), true_share=0.5).flops == pytest.approx(formula, rel=0.02)
