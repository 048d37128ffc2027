"""The 3B train step, compiled ahead of time at its published shapes; nothing is allocated."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from configs.base import get_config
from mmkp_jax.data.forest import empty_rows, map_arrays, row_size
from mmkp_jax.ops.attention import DENSE
from mmkp_jax.training.setup import plan_training
from tests.support.published import QWEN2_5_VL_3B
from tests.support.tiny import hf_config_dict


def arrays_of(compiled) -> set[tuple[int, ...]]:
    """The shapes of all arrays in an optimised program, those inside fusions too."""
    return {
        tuple(map(int, dims.split(",")))
        for dims in re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    }


def tokens_by_vocabulary(shapes: set[tuple[int, ...]], vocab: int, width: int) -> set[tuple[int, ...]]:
    """Shapes in which one axis, or several together, are the whole vocabulary, and the others are tokens.

    The embedding and its gradient [vocab, width], which end in the width however the vocabulary is split, are none.
    """

    def others(shape: tuple[int, ...]) -> set[int]:
        """The rest of the shape's size for each choice of axes that make up the vocabulary."""
        choices = itertools.chain.from_iterable(itertools.combinations(shape, n) for n in range(1, len(shape) + 1))
        return {math.prod(shape) // vocab for axes in choices if math.prod(axes) == vocab}

    return {s for s in shapes if others(s) - {1} and not (s[-1] == width and others(s) == {width})}


TOKENS, PATCHES = 128 * 31, 504 * 23
"""Of a row; 31 and 23 divide no size of the model, nor any other of the rows."""


def squares(shapes: set[tuple[int, ...]], prime: int) -> set[tuple[int, ...]]:
    """Shapes that contain the number which `prime` divides twice, in whatever axes."""
    return {shape for shape in shapes if math.prod(shape) % prime**2 == 0}


@pytest.fixture(scope="module")
def program():
    config = get_config()
    config.total_steps = 1000
    config.row.update(tokens=TOKENS, tree_tokens=1600, images={"patches": PATCHES})
    plan = plan_training(config, hf_config_dict(QWEN2_5_VL_3B), devices=jax.devices()[:1])
    rows = empty_rows(
        config.global_batch_size, row_size(config.row, plan.definition.processor), plan.definition.processor
    )
    batch = map_arrays(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), rows)
    with jax.set_mesh(plan.mesh):
        return plan.step.lower(plan.state, batch).compile()


def test_the_3b_step_holds_no_array_of_tokens_by_vocabulary(program):
    shapes = arrays_of(program)
    vocab, width = QWEN2_5_VL_3B.vocab_size, QWEN2_5_VL_3B.hidden_size
    assert (vocab, width) in shapes  # the embedding: the program was read
    assert (36, 8, TOKENS, width) in shapes  # every layer's input, which remat keeps
    assert not tokens_by_vocabulary(shapes, vocab, width)


def test_the_3b_step_holds_no_array_of_tokens_by_tokens_or_patches_by_patches(program):
    shapes = arrays_of(program)
    assert {shape[1] for shape in shapes if len(shape) == 3} >= {TOKENS, PATCHES}
    assert not squares(shapes, 31) | squares(shapes, 23)


def test_scores_of_whole_rows_would_be_seen():
    rows = [jax.ShapeDtypeStruct((1, 62), jnp.int32)] * 2
    heads = [jax.ShapeDtypeStruct((1, 62, n, 8), jnp.float32) for n in (4, 2, 2)]
    compiled = jax.jit(lambda rows, heads: DENSE.forest(*rows, None)(*heads)).lower(rows, heads).compile()
    assert squares(arrays_of(compiled), 31)


def test_full_logits_would_be_seen():
    def loss(hidden_TD, head_VD):
        return jax.nn.logsumexp(jnp.tanh(hidden_TD @ head_VD.T), axis=-1).sum()

    args = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((640, 32), jnp.float32)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile()
    assert (64, 640) in tokens_by_vocabulary(arrays_of(compiled), 640, 32)
    logits, harmless = {(4, 16, 64, 10), (32, 640), (4, 8, 640)}, {(640, 32), (16, 40, 32), (640,)}
    assert tokens_by_vocabulary(logits | harmless, 640, 32) == logits


def test_the_state_is_donated_and_frozen_weights_are_bf16_without_moments(program):
    memory = program.memory_analysis()
    trained, frozen = 3_085_938_688 + 36_708_608, 631_975_680
    assert trained + frozen == 3_754_622_976  # the published model
    state = 4 * trained * 3 + 2 * frozen  # float32 weights and two moments; bf16
    assert abs(memory.alias_size_in_bytes - state) < 1e6
    assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1e6
