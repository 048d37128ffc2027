"""Beam search over generated and copied words.

B posts, K beams, S source words, X words with those copied, T words of a keyphrase with its end, C keyphrases of the
classifier, W words of each.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmkp_jax.baselines.model import BEGIN, END, PAD, SEPARATOR, UNKNOWN, Definition, Inputs, choices_of
from mmkp_jax.models.definition import Params

NEVER = (PAD, UNKNOWN, BEGIN, SEPARATOR)
"""Words that are no part of a keyphrase."""

Search = Callable[[Params, Inputs, jax.Array | None], tuple[jax.Array, jax.Array, jax.Array]]
"""Finds the likeliest keyphrases of posts.

Its third argument holds the words of the classifier's keyphrases, `word_CW`, to copy from; None to copy from the source
alone. It returns `word_BKT` (`END` and then `PAD` behind the words), `logp_BK` (the log-probability of words and end,
best first) and the classifier's logits, `class_BC`.
"""


def make_search(definition: Definition, *, beams: int, length: int) -> Search:
    """A compiled search.

    Args:
        beams: how many unfinished keyphrases are kept; 1 is greedy decoding.
        length: words of a keyphrase at most, its end included.
    """

    @jax.jit
    def search(params: Params, inputs: Inputs, word_CW: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        model = definition.bind(params)
        of = model.encode(inputs)
        choices = None if word_CW is None else choices_of(of.class_BC, word_CW)
        posts, width = inputs.source_BS.shape
        row_B1, size = jnp.arange(posts)[:, None], model.size + width
        many = jax.tree.map(lambda each: jnp.repeat(each, beams, axis=0), (of, inputs.copied_BS, choices))
        nothing_X, end_X = (jnp.full(size, -jnp.inf).at[word].set(0) for word in (PAD, END))

        def step(carry: tuple[jax.Array, ...], at: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
            word_BKT, logp_BK, h_BKD = carry
            last_BK = jnp.where(at == 0, BEGIN, word_BKT[:, :, at - 1])
            ended_BK = (last_BK == END) | (last_BK == PAD)
            flat = last_BK.reshape(-1), h_BKD.reshape(posts * beams, -1)
            p_NX, h_ND = definition.bind(params).next_words(*many, *flat)
            next_BKX = jnp.log(jnp.maximum(p_NX, 1e-20)).reshape(posts, beams, size)
            next_BKX = next_BKX.at[..., jnp.array(NEVER)].set(-jnp.inf)
            next_BKX = next_BKX.at[..., END].add(jnp.where(at == 0, -jnp.inf, 0))  # no keyphrase is empty
            next_BKX = jnp.where(at == length - 1, next_BKX + end_X, next_BKX)
            total_BX = (logp_BK[..., None] + jnp.where(ended_BK[..., None], nothing_X, next_BKX)).reshape(posts, -1)
            logp_BK, best_BK = jax.lax.top_k(total_BX, beams)
            beam_BK, word_BK = best_BK // size, best_BK % size
            word_BKT = word_BKT[row_B1, beam_BK].at[:, :, at].set(word_BK)
            return (word_BKT, logp_BK, h_ND.reshape(posts, beams, -1)[row_B1, beam_BK]), None

        first = (
            jnp.full((posts, beams, length), PAD, jnp.int32),
            jnp.full((posts, beams), -jnp.inf).at[:, 0].set(0),
            jnp.repeat(of.first_BD[:, None], beams, axis=1),
        )
        (word_BKT, logp_BK, _), _ = jax.lax.scan(step, first, jnp.arange(length))
        return word_BKT, logp_BK, of.class_BC

    return search
