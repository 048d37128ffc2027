"""CMKP's joint model: a classifier over training keyphrases and a pointer-generator on one encoder (EMNLP 2020).

Without a classifier, images and attributes it is ONE2SEQ. Sizes, pooling and gates are those of CMKP's published code,
with one difference: there, copying from the source and from the classifier each have the weight 1 - p, which sums to
more than 1, and a second gate has parameters that are not used; here the second gate divides 1 - p between the two.

B posts, S source words, A attribute words, R image regions, F width of a region, T target words, C keyphrases of the
classifier, W words of its choices, V vocabulary, X = V + S words with those copied, D width, G = 2 D, P places of
target words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.baselines.layers import (
    AdditiveAttention,
    BiGRU,
    CoAttention,
    GRUCell,
    MultiHeadFusion,
    dropout,
    linear,
    masked_max,
    masked_mean,
)
from mmkp_jax.models.definition import Params

PAD, UNKNOWN, BEGIN, END, SEPARATOR = range(5)
"""Words of every vocabulary: padding, a word that it lacks, a keyphrase's begin and end, and what OCR words follow."""

CHOICES = 5
"""Keyphrases of the classifier that the joint phase copies from."""


class Sizes(NamedTuple):
    """What the shapes of the parameters depend on."""

    vocabulary: int
    classes: int
    """Keyphrases of the classifier; 0 without one."""
    region_width: int = 0
    """Numbers of an image region; 0 without images."""
    attributes: bool = False
    fusion: str = "m3h"
    """`m3h` or `coatt`."""
    joint: bool = False
    """Whether the decoder can copy from the classifier."""
    embedding: int = 200
    hidden: int = 150
    """Width of the encoder in one direction."""
    layers: int = 2
    dropout: float = 0.1


class Inputs(NamedTuple):
    """A batch of posts."""

    source_BS: jax.Array
    """Words of the text, and after a separator those of the image; `PAD` behind them, at least one word a post."""
    copied_BS: jax.Array
    """The same, where words that the vocabulary lacks are numbered from V on, by post."""
    attribute_BA: jax.Array
    region_BRF: jax.Array
    """Features of the image's regions; 0 for a post without an image."""


class Encoded(NamedTuple):
    """What the encoder says about posts."""

    state_BSD: jax.Array
    mask_BS: jax.Array
    first_BD: jax.Array
    """The decoder's first state."""
    fused_BD: jax.Array
    class_BC: jax.Array
    """Logits of the classifier's keyphrases."""


class Choices(NamedTuple):
    """Words that can be copied from the classifier's choices."""

    word_BW: jax.Array
    """Words by number, in the extended vocabulary; `PAD` for none."""
    weight_BW: jax.Array
    """Weights that sum to 1 for each post."""


class Encoder(nnx.Module):
    """Words to states and a vector fused with image and attributes."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        width = 2 * sizes.hidden
        init = jax.nn.initializers.uniform(0.2)

        def centred(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
            return (init(key, shape, dtype) - 0.1).at[PAD].set(0)

        self.embedding = nnx.Embed(sizes.vocabulary, sizes.embedding, embedding_init=centred, rngs=rngs)
        self.words = BiGRU(sizes.embedding, sizes.hidden, sizes.layers, rngs)
        self.region = linear(sizes.region_width, width, rngs) if sizes.region_width else nnx.data(None)
        self.attribute = linear(sizes.embedding, width, rngs) if sizes.attributes else nnx.data(None)
        fused = sizes.region_width or sizes.attributes
        block = MultiHeadFusion if sizes.fusion == "m3h" else CoAttention
        self.fusion = block(width, rngs) if fused else nnx.data(None)
        self.dropout, self.is_m3h = sizes.dropout, sizes.fusion == "m3h"

    def __call__(self, inputs: Inputs, key: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """`state_BSD`, `mask_BS`, the decoder's `first_BD`, and `fused_BD`."""
        mask_BS = inputs.source_BS != PAD
        keys = (None, None) if key is None else jax.random.split(key)
        state_BSD, first_BD = self.words(self.embedding(inputs.source_BS), mask_BS, self.dropout, keys[0])
        if self.fusion is None:
            return state_BSD, mask_BS, first_BD, masked_max(state_BSD, mask_BS)
        others, query_BD = [], 0
        if self.region is not None:
            seen_BR = jnp.any(inputs.region_BRF != 0, axis=-1)
            others.append((self.region(inputs.region_BRF.astype(state_BSD.dtype)), seen_BR))
            query_BD += masked_mean(*others[-1])
        if self.attribute is not None:
            others.append((self.attribute(self.embedding(inputs.attribute_BA)), inputs.attribute_BA != PAD))
            query_BD += masked_max(*others[-1])
        if self.is_m3h:
            return state_BSD, mask_BS, first_BD, self.fusion(query_BD, state_BSD, mask_BS, self.dropout, keys[1])
        other_BMD, mask_BM = (jnp.concatenate(each, axis=1) for each in zip(*others, strict=True))
        none_B1 = ~mask_BM.any(axis=1, keepdims=True)  # then the slots' biases are read, rather than nothing
        return state_BSD, mask_BS, first_BD, self.fusion(state_BSD, mask_BS, other_BMD, mask_BM | none_B1)


class Decoder(nnx.Module):
    """The pointer-generator: the next word is generated, or copied from the source or the classifier's choices."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        width = 2 * sizes.hidden
        self.unit = GRUCell(sizes.embedding, width, rngs)
        self.attention = AdditiveAttention(width, rngs)
        self.inner, self.vocabulary = linear(2 * width, width, rngs), linear(width, sizes.vocabulary, rngs)
        self.gate = linear(2 * width + sizes.embedding, 1, rngs)
        self.copy_gate = linear(2 * width + sizes.embedding, 1, rngs) if sizes.joint else nnx.data(None)
        self.dropout = sizes.dropout

    def states(self, embedded_BTE: jax.Array, first_BD: jax.Array) -> jax.Array:
        """The states `h_BTD` after each input word."""
        mask_BT = jnp.ones(embedded_BTE.shape[:2], bool)
        return self.unit.run(first_BD, embedded_BTE, mask_BT)[0]

    def read(
        self, h_BTD: jax.Array, embedded_BTE: jax.Array, of: Encoded, joint: bool
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """What the words are generated from, and by which gate: `both_BTG` and `gate_BT1`; and the weights of copying.

        These are `copy_BTS` for the source's words and `choice_BT1` for the classifier's choices; together with the
        probabilities of all words to generate, which include the gate, they sum to 1.
        """
        context_BTD, share_BTS = self.attention(h_BTD, of.state_BSD, of.mask_BS)
        context_BTD = context_BTD + of.fused_BD[:, None]
        both_BTG = jnp.concatenate([context_BTD, h_BTD], axis=-1)
        gates = jnp.concatenate([both_BTG, embedded_BTE], axis=-1)
        gate_BT1 = self.gate(gates)
        copy_BT1 = jax.nn.sigmoid(-gate_BT1)
        if not joint:
            return both_BTG, gate_BT1, copy_BT1 * share_BTS, jnp.zeros_like(copy_BT1)
        of_source_BT1 = jax.nn.sigmoid(self.copy_gate(gates))
        return both_BTG, gate_BT1, copy_BT1 * of_source_BT1 * share_BTS, copy_BT1 * (1 - of_source_BT1)

    def generated(self, both_PG: jax.Array, gate_P1: jax.Array, key: jax.Array | None) -> jax.Array:
        """Log-probabilities `logp_PV` of generating each word; with dropout if there is a key for it."""
        logit_PV = self.vocabulary(dropout(self.inner(both_PG), self.dropout, key))
        return jax.nn.log_softmax(logit_PV) + jax.nn.log_sigmoid(gate_P1)


class Model(nnx.Module):
    """Encoder, classifier and decoder, which share one table of words."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        self.encoder = Encoder(sizes, rngs)
        self.classifier = linear(2 * sizes.hidden, sizes.classes, rngs) if sizes.classes else nnx.data(None)
        self.decoder = Decoder(sizes, rngs)
        self.size = sizes.vocabulary

    def encode(self, inputs: Inputs, key: jax.Array | None = None) -> Encoded:
        """What the encoder and the classifier say about posts; with dropout if there is a key for it."""
        *found, fused_BD = self.encoder(inputs, key)
        none_BC = jnp.zeros((fused_BD.shape[0], 0), fused_BD.dtype)
        return Encoded(*found, fused_BD, none_BC if self.classifier is None else self.classifier(fused_BD))

    def embed(self, word_BT: jax.Array) -> jax.Array:
        """Vectors of words, where those beyond the vocabulary count as unknown."""
        return self.encoder.embedding(jnp.where(word_BT < self.size, word_BT, UNKNOWN))

    def target_logp(
        self,
        of: Encoded,
        copied_BS: jax.Array,
        choices: Choices | None,
        target_BT: jax.Array,
        key: jax.Array | None = None,
        place_P: jax.Array | None = None,
    ) -> jax.Array:
        """Log-probability of each target word, given those before it, generated and copied alike.

        Args:
            choices: those of the classifier in the joint phase; None before it.
            place_P: where words other than `PAD` are among the B x T, in order, and then any filling: what is computed
                for these alone is right. None for all.
        """
        begin_B1 = jnp.full_like(target_BT[:, :1], BEGIN)
        embedded_BTE = self.embed(jnp.concatenate([begin_B1, target_BT[:, :-1]], axis=1))
        h_BTD = self.decoder.states(embedded_BTE, of.first_BD)
        both_BTG, gate_BT1, copy_BTS, choice_BT1 = self.decoder.read(h_BTD, embedded_BTE, of, choices is not None)
        known_BT = target_BT < self.size
        generated_BT = self._generated(both_BTG, gate_BT1, target_BT, key, place_P)
        copied_BT = jnp.where(copied_BS[:, None] == target_BT[..., None], copy_BTS, 0).sum(axis=-1)
        if choices is not None:
            same_BTW = choices.word_BW[:, None] == target_BT[..., None]
            copied_BT += choice_BT1[..., 0] * jnp.where(same_BTW, choices.weight_BW[:, None], 0).sum(axis=-1)
        return jnp.logaddexp(jnp.where(known_BT, generated_BT, -jnp.inf), jnp.log(jnp.maximum(copied_BT, 1e-20)))

    def _generated(
        self,
        both_BTG: jax.Array,
        gate_BT1: jax.Array,
        target_BT: jax.Array,
        key: jax.Array | None,
        place_P: jax.Array | None,
    ) -> jax.Array:
        """Log-probability of generating each word of the vocabulary; `place_P` as in `target_logp`."""
        if place_P is None:
            place_P = jnp.arange(target_BT.size)
            slot_BT = place_P.reshape(target_BT.shape)
        else:
            slot_BT = jnp.maximum(jnp.cumsum(target_BT.reshape(-1) != PAD) - 1, 0).reshape(target_BT.shape)
        target_P = target_BT.reshape(-1)[place_P]
        both_PG, gate_P1 = (each.reshape(-1, each.shape[-1])[place_P] for each in (both_BTG, gate_BT1))
        logp_PV = self.decoder.generated(both_PG, gate_P1, key)
        word_P = jnp.where(target_P < self.size, target_P, PAD)
        return jnp.take_along_axis(logp_PV, word_P[:, None], axis=-1)[:, 0][slot_BT]

    def next_words(
        self, of: Encoded, copied_BS: jax.Array, choices: Choices | None, word_B: jax.Array, h_BD: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Probabilities `p_BX` of all next words, which sum to 1, and the next state, after one word."""
        embedded_BTE = self.embed(word_B[:, None])
        h_BTD = self.decoder.states(embedded_BTE, h_BD)
        both_BTG, gate_BT1, copy_BTS, choice_BT1 = self.decoder.read(h_BTD, embedded_BTE, of, choices is not None)
        logp_BV = self.decoder.generated(both_BTG[:, 0], gate_BT1[:, 0], None)
        row_B1 = jnp.arange(len(word_B))[:, None]
        p_BX = jnp.pad(jnp.exp(logp_BV), ((0, 0), (0, copied_BS.shape[1])))
        p_BX = p_BX.at[row_B1, copied_BS].add(copy_BTS[:, 0])
        if choices is not None:
            p_BX = p_BX.at[row_B1, choices.word_BW].add(choice_BT1[:, 0] * choices.weight_BW)
        return p_BX, h_BTD[:, 0]


def choices_of(class_BC: jax.Array, words_CK: jax.Array) -> Choices:
    """The words of the classifier's best keyphrases, each with the softmax of those, divided among its words.

    Args:
        words_CK: the words of each keyphrase, `PAD` behind them.
    """
    score_BN, best_BN = jax.lax.top_k(class_BC, min(CHOICES, class_BC.shape[1]))
    word_BNK = words_CK[best_BN]
    real_BNK = word_BNK != PAD
    each_BNK = jax.nn.softmax(score_BN)[..., None] / real_BNK.sum(axis=-1, keepdims=True)
    flat = (len(class_BC), -1)
    return Choices(word_BNK.reshape(flat), jnp.where(real_BNK, each_BNK, 0).reshape(flat))


class Definition(NamedTuple):
    """A model without its numbers."""

    graph: nnx.GraphDef
    state: nnx.State

    def bind(self, params: Params) -> Model:
        """The model with these parameters."""
        state = jax.tree.map(lambda leaf: leaf, self.state)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self.graph, state)

    def shapes(self) -> Params:
        """The shape of every parameter."""
        return nnx.to_pure_dict(self.state)


def define(sizes: Sizes) -> Definition:
    """The model of these sizes, with nothing allocated."""
    return Definition(*nnx.split(nnx.eval_shape(lambda: Model(sizes, nnx.Rngs(0)))))


def initial_params(sizes: Sizes, seed: int) -> Params:
    """Random parameters."""
    return jax.jit(lambda: nnx.to_pure_dict(nnx.split(Model(sizes, nnx.Rngs(seed)))[1]))()


def parameter_count(params: Params) -> int:
    """How many numbers there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
