"""Negative log-likelihood of labels from hidden states, without ever holding the logits.

B rows, T tokens, M label slots, D model width, V vocabulary, in n blocks of Z tokens.

Hidden states are gathered at the label positions first. Then one block of the vocabulary at a time is multiplied:
forwards for a running logsumexp, and again backwards. Block j holds the tokens j, j + n, j + 2n, …, so that every
device of a sharded vocabulary has its part of each block; a block's gradient is complete when it has been visited.
A vocabulary that does not divide well is filled up with tokens that no softmax sees.
"""

import functools

import jax
import jax.numpy as jnp

from mmkp_jax.ops.layout import whole_vectors

BLOCK = 16_384
"""Most tokens of a block of the vocabulary."""


def label_nll(hidden_BTD: jax.Array, head_VD: jax.Array, slot_BM: jax.Array, label_BM: jax.Array) -> jax.Array:
    """-log p(label) at each label slot: at least float32, [B, M], in nats.

    Args:
        hidden_BTD: hidden states after the last norm; products are taken in their dtype, softmax in float32.
        head_VD: the output matrix, in the dtype its gradient should have.
        slot_BM: the token that predicts each label.
        label_BM: the token number to predict.
    """
    hidden_BMD = jnp.take_along_axis(hidden_BTD, slot_BM[..., None], axis=1)
    V = head_VD.shape[0]
    n, Z = vocabulary_blocks(V)
    if n * Z > V:
        head_VD = jnp.pad(head_VD, ((0, n * Z - V), (0, 0)))
    return _nll(n, V, hidden_BMD, head_VD, label_BM)


def vocabulary_blocks(vocab_size: int) -> tuple[int, int]:
    """(n, Z): the fewest blocks of at most `BLOCK` tokens; equal ones where up to twice as many suffice for that."""
    fewest = -(-vocab_size // BLOCK)
    n = next((n for n in range(fewest, 2 * fewest + 1) if vocab_size % n == 0), fewest)
    return n, -(-vocab_size // n)


def _block(head_VD: jax.Array, j: jax.Array, n: int, dtype: jnp.dtype) -> jax.Array:
    V, D = head_VD.shape
    block_ZD = jax.lax.dynamic_index_in_dim(head_VD.reshape(V // n, n, D), j, axis=1, keepdims=False)
    return whole_vectors(block_ZD.astype(dtype))


def _logits(hidden_BMD: jax.Array, block_ZD: jax.Array, j: jax.Array, n: int, vocab_size: int) -> jax.Array:
    wide = jnp.promote_types(hidden_BMD.dtype, jnp.float32)
    logits_BMZ = jnp.einsum("bmd,zd->bmz", hidden_BMD, block_ZD, preferred_element_type=wide)
    Z = len(block_ZD)
    if n * Z == vocab_size:
        return logits_BMZ
    return jnp.where(jnp.arange(Z) * n + j < vocab_size, logits_BMZ, jnp.finfo(wide).min)


def _is_label(label_BM: jax.Array, j: jax.Array, n: int, size: int) -> jax.Array:
    """bool [B, M, Z]: the label is this token of block j."""
    return (label_BM[..., None] // n == jnp.arange(size)) & (label_BM[..., None] % n == j)


def _forward(
    n: int, vocab_size: int, hidden_BMD: jax.Array, head_VD: jax.Array, label_BM: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The NLL and the logsumexp, both [B, M]; `head_VD` is filled up to whole blocks."""
    wide = jnp.promote_types(hidden_BMD.dtype, jnp.float32)

    def visit(carry: tuple, j: jax.Array) -> tuple[tuple, None]:
        largest_BM, total_BM, logit_BM = carry
        logits_BMZ = _logits(hidden_BMD, _block(head_VD, j, n, hidden_BMD.dtype), j, n, vocab_size)
        new_largest_BM = jnp.maximum(largest_BM, logits_BMZ.max(axis=-1))
        total_BM = total_BM * jnp.exp(largest_BM - new_largest_BM)
        total_BM = total_BM + jnp.exp(logits_BMZ - new_largest_BM[..., None]).sum(axis=-1)
        is_label = _is_label(label_BM, j, n, logits_BMZ.shape[-1])
        return (new_largest_BM, total_BM, logit_BM + jnp.where(is_label, logits_BMZ, 0).sum(axis=-1)), None

    zero_BM = jnp.zeros(label_BM.shape, wide)
    start = (jnp.full(label_BM.shape, jnp.finfo(wide).min, wide), zero_BM, zero_BM)
    (largest_BM, total_BM, logit_BM), _ = jax.lax.scan(visit, start, jnp.arange(n))
    logsumexp_BM = largest_BM + jnp.log(total_BM)
    return logsumexp_BM - logit_BM, logsumexp_BM


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _nll(n: int, vocab_size: int, hidden_BMD: jax.Array, head_VD: jax.Array, label_BM: jax.Array) -> jax.Array:
    return _forward(n, vocab_size, hidden_BMD, head_VD, label_BM)[0]


def _nll_fwd(
    n: int, vocab_size: int, hidden_BMD: jax.Array, head_VD: jax.Array, label_BM: jax.Array
) -> tuple[jax.Array, tuple]:
    nll_BM, logsumexp_BM = _forward(n, vocab_size, hidden_BMD, head_VD, label_BM)
    return nll_BM, (hidden_BMD, head_VD, label_BM, logsumexp_BM)


def _nll_bwd(n: int, vocab_size: int, saved: tuple, g_BM: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    hidden_BMD, head_VD, label_BM, logsumexp_BM = saved
    V, D = head_VD.shape

    def visit(carry: tuple, j: jax.Array) -> tuple[tuple, None]:
        d_hidden_BMD, d_head_ZnD = carry
        block_ZD = _block(head_VD, j, n, hidden_BMD.dtype)
        logits_BMZ = _logits(hidden_BMD, block_ZD, j, n, vocab_size)
        share_BMZ = jnp.exp(logits_BMZ - logsumexp_BM[..., None])
        error_BMZ = (share_BMZ - _is_label(label_BM, j, n, V // n)) * g_BM[..., None]
        error_BMZ = error_BMZ.astype(hidden_BMD.dtype)  # products of one dtype: mixed ones are slow on a GPU
        d_hidden_BMD += jnp.einsum("bmz,zd->bmd", error_BMZ, block_ZD, preferred_element_type=d_hidden_BMD.dtype)
        d_block_ZD = jnp.einsum("bmz,bmd->zd", error_BMZ, hidden_BMD, preferred_element_type=d_head_ZnD.dtype)
        d_head_ZnD = jax.lax.dynamic_update_index_in_dim(d_head_ZnD, d_block_ZD, j, axis=1)
        return (d_hidden_BMD, d_head_ZnD), None

    start = (jnp.zeros(hidden_BMD.shape, g_BM.dtype), jnp.zeros((V // n, n, D), head_VD.dtype))
    (d_hidden_BMD, d_head_ZnD), _ = jax.lax.scan(visit, start, jnp.arange(n))
    return d_hidden_BMD.astype(hidden_BMD.dtype), d_head_ZnD.reshape(V, D), None


_nll.defvjp(_nll_fwd, _nll_bwd)
