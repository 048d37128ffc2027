"""Greedy decoding with a key-value cache, a batch of prompts at a time.

B rows, T prompt slots, A answer slots, S = T + A slots of the cache, L layers, K key-value heads, H head width.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import Forest, Geometry, RowSize, Tree, plant
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.qwen2_5_vl import Cache, mrope_angles
from mmkp_jax.ops.attention import forest_mask


class Answers(NamedTuple):
    """What the model writes; the end token is not part of it."""

    token_BA: jax.Array
    """int32: 0 after the end."""
    length_B: jax.Array
    """int32: tokens written, the end token not counted."""


def plant_prompts(trees: Sequence[Tree], size: RowSize, geometry: Geometry) -> Forest:
    """A prompt a row. A branch of one label is the prompt's last token, so a row is the prompt as it stands.

    Raises:
        ValueError: a prompt does not fit in a row.
    """
    one, none = np.zeros(1, np.int32), np.zeros(0, np.int32)
    prompts = [[Tree(tree.prompt, one, none, tree.grids, tree.patches)] for tree in trees]
    return plant(prompts, size, geometry)


def make_generate(
    definition: Definition, *, answer_tokens: int, end_token: int, dtype: jnp.dtype
) -> Callable[[Params, Forest], Answers]:
    """A pure `(params, prompts) -> answers` of at most `answer_tokens` tokens each; jit it.

    Decoding goes on until the last row has ended. The head sees only the token that answers go on from.
    """
    config = definition.config

    def generate(params: Params, prompts: Forest) -> Answers:
        model = definition.bind(params)
        B, T = prompts.token_BT.shape
        S = T + answer_tokens
        shape = (config.num_layers, B, S, config.num_kv_heads, config.head_dim)
        nothing = Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

        prompt_BS = jnp.pad(prompts.segment_BT, ((0, 0), (0, answer_tokens))) > 0
        mask_BTS = jnp.pad(forest_mask(prompts.segment_BT, prompts.branch_BT), ((0, 0), (0, 0), (0, answer_tokens)))
        x_BTD = model.embed(prompts, model.visual(prompts, dtype))
        hidden_BTD, cache = model.decoder.extend(
            x_BTD, mrope_angles(prompts.position_BT3, config), nothing, jnp.int32(0), mask_BTS
        )
        last_B1 = prompts.label_slot_BM[:, :1]
        hidden_B1D = jnp.take_along_axis(hidden_BTD, last_B1[..., None], axis=1)
        position_B13 = jnp.take_along_axis(prompts.position_BT3, last_B1[..., None], axis=1)

        def best(hidden_B1D: jax.Array) -> jax.Array:
            wide = jnp.promote_types(dtype, jnp.float32)
            logits_BV = jnp.einsum("bd,vd->bv", hidden_B1D[:, 0], model.head.astype(dtype), preferred_element_type=wide)
            return logits_BV.argmax(axis=-1).astype(jnp.int32)

        def write(carry: tuple) -> tuple:
            i, token_B, done_B, answers, cache = carry
            answers = Answers(
                answers.token_BA.at[:, i].set(jnp.where(done_B, 0, token_B)),
                answers.length_B + ~done_B,
            )
            seen_BS = prompt_BS | ((jnp.arange(S) >= T) & (jnp.arange(S) <= T + i))
            x_B1D = model.decoder.embedding[...][token_B][:, None].astype(dtype)
            angle_B1I = mrope_angles(position_B13 + 1 + i, config)
            hidden_B1D, cache = model.decoder.extend(x_B1D, angle_B1I, cache, T + i, seen_BS[:, None])
            token_B = best(hidden_B1D)
            return i + 1, token_B, done_B | (token_B == end_token), answers, cache

        first_B = best(hidden_B1D)
        empty = Answers(jnp.zeros((B, answer_tokens), jnp.int32), jnp.zeros(B, jnp.int32))
        start = (jnp.int32(0), first_B, first_B == end_token, empty, cache)
        *_, answers, _ = jax.lax.while_loop(lambda carry: (carry[0] < answer_tokens) & ~carry[2].all(), write, start)
        return answers

    return generate
