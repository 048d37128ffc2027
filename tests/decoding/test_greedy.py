"""Greedy answers are transformers' `generate`'s, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mmkp_jax.decoding.greedy import make_generate, plant_prompts
from tests.parity import pair_of, pixel_values
from tests.tiny import tiny_config
from tests.trees import geometry_of, random_tree, row_size

ANSWER_TOKENS = 24


@pytest.fixture(
    scope="module", params=[{}, {"tie_embeddings": False, "num_heads": 8, "num_kv_heads": 4}], ids=["tied", "untied"]
)
def pair(request, tmp_path_factory):
    overrides = request.param | ({"mrope_section": (1, 2, 1)} if request.param else {})
    return pair_of(tiny_config(**overrides), tmp_path_factory.mktemp("model"))


@torch.no_grad()
def theirs(model, tree, config, end: int) -> list[int]:
    ids = torch.from_numpy(tree.prompt.astype(np.int64))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = (ids == config.image_token_id).int()
    if tree.grids:
        inputs["pixel_values"] = pixel_values(tree)
        inputs["image_grid_thw"] = torch.tensor([(1, *grid) for grid in tree.grids])
    model.model.rope_deltas = None
    out = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end)
    answer = out[0, ids.shape[1] :].tolist()
    return answer[: answer.index(end)] if end in answer else answer


def test_mixed_prompts_in_one_batch_answer_as_transformers_does(pair):
    model, definition, params = pair
    config = definition.config
    trees = [
        random_tree(0, config, grids=[(10, 18)]),
        random_tree(1, config, grids=[], text=30),
        random_tree(2, config, grids=[(4, 4), (6, 10)]),
        random_tree(3, config, grids=[(16, 8)], text=2),
    ]
    free = theirs(model, trees[0], config, end=-1)
    end = free[5]  # a token that the first answer really comes to, so that it ends early
    expected = [theirs(model, tree, config, end) for tree in trees]
    size = row_size([[tree] for tree in trees], config, spare=3)
    prompts = plant_prompts(trees, size, geometry_of(config))
    generate = jax.jit(make_generate(definition, answer_tokens=ANSWER_TOKENS, end_token=end, dtype=jnp.float32))
    answers = generate(params, prompts)
    ours = [row[:n].tolist() for row, n in zip(np.asarray(answers.token_BA), answers.length_B, strict=True)]
    assert ours == expected
    assert len(ours[0]) < ANSWER_TOKENS and max(map(len, ours)) > 5
