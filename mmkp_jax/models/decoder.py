"""The decoder that model families share: grouped-query attention with rotary positions and SwiGLU, both after RMSNorm.

B rows, T tokens, D model width, N query heads, K key-value heads, H head width, I = H / 2, V vocabulary.

It is the decoder of Qwen2, Qwen2.5 and Qwen2.5-VL (q, k and v with a bias) and of Llama 3 (without a bias), after
transformers' `modeling_qwen2.py` and `modeling_llama.py`. A model is a `DecoderModel` with what its images need.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.models.family import Product, Work
from mmkp_jax.models.flops import with_matrices
from mmkp_jax.models.layers import Linear, RMSNorm, Rotation, SwiGLU, parameter, rotate, rotation_by, scan_layers
from mmkp_jax.models.model import Attend, Layer, attend_by
from mmkp_jax.ops.backends import ANY_ROWS, RowAttention
from mmkp_jax.ops.layout import over_rows, whole_vectors


class DecoderShape(Protocol):
    """What the decoder reads of a model's config; `decoder_config.DecoderConfig` has it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    qkv_bias: bool


class DecoderLayer(nnx.Module):
    """Grouped-query attention, with a bias on q, k and v or without, then SwiGLU; both after RMSNorm."""

    def __init__(self, config: DecoderShape, *, layers: int | None, rngs):
        D, N, K, H = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
        self.head_dim = H
        norm = dict(eps=config.rms_norm_eps, layers=layers, rngs=rngs)
        of_qkv = dict(bias=config.qkv_bias, layers=layers, rngs=rngs)
        self.attention_norm = RMSNorm(D, "embed", **norm)
        self.mlp_norm = RMSNorm(D, "embed", **norm)
        self.q = Linear((N * H, D), ("heads", "embed"), **of_qkv)
        self.k = Linear((K * H, D), ("kv_heads", "embed"), **of_qkv)
        self.v = Linear((K * H, D), ("kv_heads", "embed"), **of_qkv)
        self.o = Linear((D, N * H), ("embed", "heads"), bias=False, layers=layers, rngs=rngs)
        self.mlp = SwiGLU(D, config.intermediate_size, ("embed", "mlp"), bias=False, layers=layers, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, rotation: Rotation, attend: Attend) -> jax.Array:
        B, T, _ = x_BTD.shape
        h_BTD = self.attention_norm(x_BTD)
        q, k, v = (f(h_BTD).reshape(B, T, -1, self.head_dim) for f in (self.q, self.k, self.v))
        out_BTNH = attend.own(rotate(q, rotation), rotate(k, rotation), v)
        x_BTD = x_BTD + self.o(out_BTNH.reshape(B, T, -1))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class Decoder(nnx.Module):
    """Token embedding, the layers, and the last norm."""

    def __init__(self, config: DecoderShape, *, remat: bool, rngs):
        self.embedding = parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), None)
        self.layers = DecoderLayer(config, layers=config.num_layers, rngs=rngs)
        self.norm = RMSNorm(config.hidden_size, "embed", eps=config.rms_norm_eps, layers=None, rngs=rngs)
        self.remat = remat

    def __call__(self, x_BTD: jax.Array, rotation: Rotation, attend: Attend) -> jax.Array:
        """Hidden states after the last norm."""

        def layer(layer: DecoderLayer, x_BTD: jax.Array) -> jax.Array:
            return layer(x_BTD, rotation, attend)

        return self.norm(scan_layers(self.layers, x_BTD, layer, remat=self.remat))


class DecoderModel(nnx.Module):
    """A model whose decoder is `Decoder` and whose images, if it takes any, are tokens (`models.model.Model`).

    As it is, it is a model of text: `encode` and `embed` are what images need, `rotation` other positions.
    """

    config: Any
    attention: RowAttention
    decoder: Decoder

    def __init__(self, config: Any, *, remat: bool = False, attention: RowAttention = ANY_ROWS, rngs: nnx.Rngs):
        self.config, self.attention = config, attention
        self.decoder = Decoder(config, remat=remat, rngs=rngs)
        if not config.tie_embeddings:
            self.lm_head = parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), None)

    def __call__(self, forest: Forest, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        """Hidden states after the last norm, [B, T, D], computed in `dtype`."""
        return self.decode(forest, self.encode(forest.images, dtype), dtype)

    def encode(self, images: Any, dtype: jnp.dtype) -> Any:
        """No features."""
        return None

    def decode(self, forest: Forest, features: Any, dtype: jnp.dtype) -> jax.Array:
        """Hidden states from the images' features."""
        attend = attend_by(self.attention, forest)
        return self.decoder(self.embed(forest, features, dtype), self.rotation(forest.position_BTA), attend)

    def memory(self, forest: Forest, features: Any, dtype: jnp.dtype) -> None:
        """No cross-attention."""
        return None

    def embed(self, forest: Forest, features: Any, dtype: jnp.dtype) -> jax.Array:
        """Token embeddings, [B, T, D]."""
        return over_rows(self.embed_tokens(forest, dtype))

    def embed_tokens(self, forest: Forest, dtype: jnp.dtype) -> jax.Array:
        """Token embeddings of packed rows before features replace those of image tokens, [B, T, D]."""
        return whole_vectors(self.decoder.embedding[...])[forest.token_BT].astype(dtype)

    def embed_text(self, token_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Embeddings of text tokens, [B, T, D]."""
        return over_rows(self.decoder.embedding[...][token_BT].astype(dtype))

    def rotation(self, position_BTA: jax.Array) -> Rotation:
        """Rotation by the first axis of the positions."""
        config = self.config
        return rotation_by(position_BTA[..., :1] * config.rope.frequencies(config.head_dim))

    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers, all in one stack."""
        config = self.config
        return tuple(Layer("layers", i, config.num_kv_heads, config.head_dim) for i in range(config.num_layers))

    def stack(self, name: str) -> nnx.Module:
        """The decoder's layers."""
        return getattr(self.decoder, name)

    def finish(self, x_BTD: jax.Array) -> jax.Array:
        """The last norm."""
        return self.decoder.norm(x_BTD)

    @property
    def head(self) -> jax.Array:
        """The output matrix [V, D]: the token embedding where it is tied."""
        return (self.decoder.embedding if self.config.tie_embeddings else self.lm_head)[...]


def decoder_products(config: DecoderShape, sizes: Mapping[str, int], work: Work) -> list[Product]:
    """The products of the stage `decoder`: those of `Decoder.layers`."""
    pairs = config.num_layers * work.token_pairs
    return [
        *with_matrices(sizes, "decoder", work.tokens, within="decoder.layers"),
        Product("decoder", "", 4 * config.num_heads * config.head_dim * pairs),
    ]


def head_product(config: Any, sizes: Mapping[str, int], work: Work) -> Product:
    """The product of the stage `lm_head`, with the embedding where the two are tied."""
    head = "decoder.embedding" if config.tie_embeddings else "lm_head"
    return Product("lm_head", head, 2 * work.labels * sizes[head])


def saved_by_decoder(config: DecoderShape, tokens: int) -> int:
    """Numbers in the inputs of layers and the outputs of their attention, of a row with `tokens` slots."""
    return config.num_layers * (config.hidden_size + config.num_heads * config.head_dim) * tokens
