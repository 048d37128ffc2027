"""Layers of the traditional models: recurrent units, attention over words, fusion of texts with images.

B posts, S source words, T target words, M memory slots (words or image regions), D width, E width of a query.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

HEADS, HEAD_WIDTH = 4, 128
"""Heads of the multi-head fusion, and the width of each (CMKP)."""

LINEAR = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1/sqrt(inputs), as PyTorch begins a linear layer."""


def linear(inputs: int, outputs: int, rngs: nnx.Rngs, *, bias: bool = True) -> nnx.Linear:
    """x W + b, with W of shape [inputs, outputs]."""
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=LINEAR, rngs=rngs)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its numbers set to 0, and the others scaled up; `x` itself without a key."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def masked_softmax(score_BM: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Softmax over the last axis, where masked slots get 0; at least one slot of a row has to be unmasked."""
    return jax.nn.softmax(jnp.where(mask_BM, score_BM, -jnp.inf), axis=-1)


class GRUCell(nnx.Module):
    """A gated recurrent unit with PyTorch's gates (reset, update, new) and its two biases a gate.

    The reset gate multiplies the recurrent product with its bias included.
    """

    def __init__(self, inputs: int, width: int, rngs: nnx.Rngs):
        def of_width(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -1, 1) / jnp.sqrt(width)

        self.input = nnx.Linear(inputs, 3 * width, kernel_init=of_width, bias_init=of_width, rngs=rngs)
        self.recurrent = nnx.Linear(width, 3 * width, kernel_init=of_width, bias_init=of_width, rngs=rngs)

    def __call__(self, h_BD: jax.Array, x_BD: jax.Array) -> jax.Array:
        """The next state, of the state and an input."""
        return self.step(h_BD, self.input(x_BD))

    def step(self, h_BD: jax.Array, input_B3D: jax.Array) -> jax.Array:
        """The next state, of the state and the product of an input."""
        reset_in, update_in, new_in = jnp.split(input_B3D, 3, axis=-1)
        reset_h, update_h, new_h = jnp.split(self.recurrent(h_BD), 3, axis=-1)
        reset, update = jax.nn.sigmoid(reset_in + reset_h), jax.nn.sigmoid(update_in + update_h)
        return (1 - update) * jnp.tanh(new_in + reset * new_h) + update * h_BD

    def run(self, h_BD: jax.Array, x_BSD: jax.Array, mask_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The states after each input, 0 where it is masked, and the last state; masked inputs change no state."""
        (state_BSD,), (last_BD,) = _run([self], h_BD, [x_BSD], [mask_BS])
        return state_BSD, last_BD


def run_both(
    forwards: GRUCell, backwards: GRUCell, h_BD: jax.Array, x_BSD: jax.Array, mask_BS: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """What `forwards.run` returns, and `backwards` of the inputs from the last one on; in one loop of S steps.

    Its small products wait for each other, so that on a busy machine the number of steps decides.
    """
    flipped = jnp.flip(x_BSD, 1), jnp.flip(mask_BS, 1)
    (ahead_BSD, back_BSD), (last_BD, first_BD) = _run(
        [forwards, backwards], h_BD, [x_BSD, flipped[0]], [mask_BS, flipped[1]]
    )
    return (ahead_BSD, last_BD), (jnp.flip(back_BSD, 1), first_BD)


def _run(
    cells: Sequence[GRUCell], h_BD: jax.Array, xs: Sequence[jax.Array], masks: Sequence[jax.Array]
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Every cell's states after each of its inputs `x_BSD`, and its last one."""
    split = [nnx.split(cell) for cell in cells]

    def step(states: list[jax.Array], at: tuple[list[jax.Array], list[jax.Array]]) -> tuple[list, list]:
        after, out = [], []
        for parts, h_BD, input_B3D, mask_B in zip(split, states, *at, strict=True):
            after_BD = nnx.merge(*parts).step(h_BD, input_B3D)
            after.append(jnp.where(mask_B[:, None], after_BD, h_BD))
            out.append(jnp.where(mask_B[:, None], after_BD, 0))
        return after, out

    inputs = [jnp.swapaxes(cell.input(x_BSD), 0, 1) for cell, x_BSD in zip(cells, xs, strict=True)]
    last, found = jax.lax.scan(step, [h_BD] * len(cells), (inputs, [mask_BS.T for mask_BS in masks]))
    return [jnp.swapaxes(state_SBD, 0, 1) for state_SBD in found], last


class BiGRU(nnx.Module):
    """Layers of recurrent units in both directions, whose states are joined (forwards, then backwards)."""

    def __init__(self, inputs: int, width: int, layers: int, rngs: nnx.Rngs):
        sizes = [inputs, *[2 * width] * (layers - 1)]
        self.forwards = nnx.List([GRUCell(size, width, rngs) for size in sizes])
        self.backwards = nnx.List([GRUCell(size, width, rngs) for size in sizes])
        self.width = width

    def __call__(
        self, x_BSE: jax.Array, mask_BS: jax.Array, rate: float, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The last layer's `state_BSD`, and its two final states joined, backwards first (CMKP's order)."""
        h_BD = jnp.zeros((x_BSE.shape[0], self.width), x_BSE.dtype)
        for layer, (forwards, backwards) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if layer:
                x_BSE = dropout(x_BSE, rate, None if key is None else jax.random.fold_in(key, layer))
            (ahead_BSD, last_BD), (back_BSD, first_BD) = run_both(forwards, backwards, h_BD, x_BSE, mask_BS)
            x_BSE = jnp.concatenate([ahead_BSD, back_BSD], axis=-1)
        return x_BSE, jnp.concatenate([first_BD, last_BD], axis=-1)


class AdditiveAttention(nnx.Module):
    """Bahdanau's attention: v tanh(W q + U m) scores each slot, and a linear joins what is read with the query."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.query = linear(width, width, rngs)
        self.memory = linear(width, width, rngs, bias=False)
        self.score = linear(width, 1, rngs, bias=False)
        self.output = linear(2 * width, width, rngs)

    def __call__(self, q_BTD: jax.Array, m_BMD: jax.Array, mask_BM: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`context_BTD`, and the weights `share_BTM`, which sum to 1."""
        hidden_BTMD = jnp.tanh(self.query(q_BTD)[:, :, None] + self.memory(m_BMD)[:, None])
        share_BTM = masked_softmax(self.score(hidden_BTMD)[..., 0], mask_BM[:, None])
        read_BTD = jnp.einsum("btm,bmd->btd", share_BTM, m_BMD)
        return self.output(jnp.concatenate([read_BTD, q_BTD], axis=-1)), share_BTM


class MultiHeadFusion(nnx.Module):
    """M3H-ATT's block: one query reads a memory by several heads; then a feed-forward layer, each with its norm."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.attention = nnx.MultiHeadAttention(
            HEADS, width, HEADS * HEAD_WIDTH, width, decode=False, rngs=rngs, kernel_init=LINEAR
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.inner, self.outer = linear(width, width, rngs), linear(width, width, rngs)
        self.outer_norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self, q_BD: jax.Array, m_BMD: jax.Array, mask_BM: jax.Array, rate: float, key: jax.Array | None
    ) -> jax.Array:
        """What the query reads of the unmasked memory slots, added to it."""
        keys = (None, None) if key is None else jax.random.split(key)
        read_BD = self.attention(q_BD[:, None], m_BMD, mask=mask_BM[:, None, None], deterministic=True)[:, 0]
        x_BD = self.norm(q_BD + dropout(read_BD, rate, keys[0]))
        hidden_BD = self.outer(jax.nn.relu(self.inner(x_BD)))
        return self.outer_norm(x_BD + dropout(hidden_BD, rate, keys[1]))


class CoAttention(nnx.Module):
    """CO-ATT: the text's mean reads the image's slots, what it read reads the text's, and a linear joins the two."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.text_query, self.image_query = linear(width, width, rngs), linear(width, width, rngs)
        self.text_memory, self.image_memory = (linear(width, width, rngs, bias=False) for _ in range(2))
        self.text_score, self.image_score = (linear(width, 1, rngs, bias=False) for _ in range(2))
        self.output = linear(2 * width, width, rngs)

    def __call__(self, text_BSD: jax.Array, mask_BS: jax.Array, image_BMD: jax.Array, mask_BM: jax.Array) -> jax.Array:
        """The fused vector."""
        mean_BD = masked_mean(text_BSD, mask_BS)
        score_BM = self.image_score(jnp.tanh(self.text_query(mean_BD)[:, None] + self.image_memory(image_BMD)))[..., 0]
        image_BD = jnp.einsum("bm,bmd->bd", masked_softmax(score_BM, mask_BM), image_BMD)
        score_BS = self.text_score(jnp.tanh(self.image_query(image_BD)[:, None] + self.text_memory(text_BSD)))[..., 0]
        text_BD = jnp.einsum("bs,bsd->bd", masked_softmax(score_BS, mask_BS), text_BSD)
        return self.output(jnp.concatenate([image_BD, text_BD], axis=-1))


def masked_mean(x_BMD: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Mean over the unmasked slots; 0 where there are none."""
    total_BD = jnp.where(mask_BM[..., None], x_BMD, 0).sum(axis=1)
    return total_BD / jnp.maximum(mask_BM.sum(axis=1), 1)[:, None]


def masked_max(x_BMD: jax.Array, mask_BM: jax.Array) -> jax.Array:
    """Maximum over the unmasked slots; 0 where there are none."""
    most_BD = jnp.where(mask_BM[..., None], x_BMD, -jnp.inf).max(axis=1)
    return jnp.where(mask_BM.any(axis=1)[:, None], most_BD, 0)
