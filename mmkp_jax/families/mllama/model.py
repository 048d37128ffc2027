"""Llama 3.2 Vision over packed rows: a Llama decoder, every fifth layer of which is gated cross-attention to images.

B rows, T tokens, J images of a row, S keys of images, D model width, N query heads, K key-value heads, H head width,
V vocabulary.

Follows transformers' `modeling_mllama.py`, block by block. A token sees the filled tiles of the last image before it in
its tree. Tokens before their tree's first image attend to all tiles of its images, empty ones too, and get no MLP of
these layers: so transformers has it, while Meta's code gives them nothing of the attention either. Trees without an
image pass these layers unchanged.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.families.mllama.config import CROSS, PERIOD, MllamaConfig
from mmkp_jax.families.mllama.processor import Images
from mmkp_jax.families.mllama.tower import GATE, VisionTower, opened, tiles_of
from mmkp_jax.models.decoder import DecoderLayer, DecoderModel
from mmkp_jax.models.layers import Linear, RMSNorm, Rotation, SwiGLU, parameter, scan_stacks
from mmkp_jax.models.model import Attend, Layer, Memory, attend_by
from mmkp_jax.ops.backends import ANY_ROWS, RowAttention


class CrossLayer(nnx.Module):
    """Gated attention to images, whose keys no rotation touches, then a gated SwiGLU; both after RMSNorm."""

    def __init__(self, config: MllamaConfig, *, layers: int | None, rngs):
        D, N, K, H = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
        self.kv_heads, self.head_dim = K, H
        stacked = dict(layers=layers, rngs=rngs)
        norm = dict(eps=config.rms_norm_eps, **stacked)
        self.attention_norm, self.mlp_norm = (RMSNorm(D, "embed", **norm) for _ in range(2))
        self.q_norm, self.k_norm = (RMSNorm(H, None, **norm) for _ in range(2))
        self.q = Linear((N * H, D), ("heads", "embed"), bias=False, **stacked)
        self.k = Linear((K * H, D), ("kv_heads", "embed"), bias=False, **stacked)
        self.v = Linear((K * H, D), ("kv_heads", "embed"), bias=False, **stacked)
        self.o = Linear((D, N * H), ("embed", "heads"), bias=False, **stacked)
        self.mlp = SwiGLU(D, config.intermediate_size, ("embed", "mlp"), bias=False, **stacked)
        self.attention_gate, self.mlp_gate = (parameter(rngs, (1,), (None,), layers, GATE) for _ in range(2))

    def project(self, features_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of images, [B, S, K, H] each."""
        B, S, _ = features_BSD.shape
        k, v = (each(features_BSD).reshape(B, S, self.kv_heads, self.head_dim) for each in (self.k, self.v))
        return self.k_norm(k), v

    def __call__(self, x_BTD: jax.Array, rotation: Rotation, attend: Attend) -> jax.Array:
        B, T, _ = x_BTD.shape
        q_BTNH = self.q_norm(self.q(self.attention_norm(x_BTD)).reshape(B, T, -1, self.head_dim))
        out_BTD = self.o(attend.images(q_BTNH, self.project).reshape(B, T, -1))
        x_BTD = x_BTD + opened(self.attention_gate, x_BTD.dtype) * out_BTD
        out_BTD = jnp.where(attend.has_images_BT[..., None], self.mlp(self.mlp_norm(x_BTD)), 0)
        return x_BTD + opened(self.mlp_gate, x_BTD.dtype) * out_BTD


class MllamaDecoder(nnx.Module):
    """Token embedding, the layers of both kinds, and the last norm."""

    def __init__(self, config: MllamaConfig, *, remat: bool, rngs):
        self.embedding = parameter(rngs, (config.embedding_rows, config.hidden_size), ("vocab", "embed"), None)
        self.layers = DecoderLayer(config, layers=config.self_layers, rngs=rngs)
        self.cross = CrossLayer(config, layers=config.cross_layers, rngs=rngs)
        self.norm = RMSNorm(config.hidden_size, "embed", eps=config.rms_norm_eps, layers=None, rngs=rngs)
        self.remat = remat

    def __call__(self, x_BTD: jax.Array, rotation: Rotation, attend: Attend) -> jax.Array:
        """Hidden states after the last norm."""

        def layer(layer: DecoderLayer | CrossLayer, x_BTD: jax.Array) -> jax.Array:
            return layer(x_BTD, rotation, attend)

        kinds = ["cross" if place == CROSS else "layers" for place in range(PERIOD)]
        stacks = {"layers": self.layers, "cross": self.cross}
        return self.norm(scan_stacks(stacks, kinds, x_BTD, layer, remat=self.remat))


class Mllama(DecoderModel):
    """The Llama 3.2 Vision model.

    `remat` saves only each layer's input, and what attention saves, for the backward pass.
    """

    def __init__(
        self, config: MllamaConfig, *, remat: bool = False, attention: RowAttention = ANY_ROWS, rngs: nnx.Rngs
    ):
        self.config, self.attention = config, attention
        self.tower = VisionTower(config.vision, remat=remat, attention=attention, rngs=rngs)
        self.projector = Linear(
            (config.hidden_size, config.vision.features), ("embed", "vision_embed"), bias=True, layers=None, rngs=rngs
        )
        self.decoder = MllamaDecoder(config, remat=remat, rngs=rngs)
        self.lm_head = parameter(rngs, (config.vocab_size, config.hidden_size), ("vocab", "embed"), None)

    def encode(self, images: Images, dtype: jnp.dtype) -> jax.Array:
        """The vision tower's features of every tile's tokens, [B, S, features]; the projector is part of `memory`."""
        return self.tower(images, dtype)

    def decode(self, forest: Forest, features: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Hidden states after the last norm, from the tower's features."""
        attend = attend_by(self.attention, forest, self.memory(forest, features, dtype))
        return self.decoder(self.embed(forest, features, dtype), self.rotation(forest.position_BTA), attend)

    def memory(self, forest: Forest, features: jax.Array, dtype: jnp.dtype) -> Memory:
        """What tokens see of their own tree's images."""
        tower = self.config.vision
        segment_BT, token_BJ = jnp.asarray(forest.segment_BT), jnp.asarray(forest.images.token_BJ)
        (B, T), J = segment_BT.shape, token_BJ.shape[1]
        if J == 0:  # rows for text only
            none_BT = jnp.zeros((B, T), jnp.int32)
            return Memory(self.projector(features), none_BT, none_BT, none_BT > 0)
        tree_BJ = jnp.where(token_BJ >= 0, jnp.take_along_axis(segment_BT, jnp.maximum(token_BJ, 0), axis=1), -1)
        is_its_BTJ = tree_BJ[:, None] == segment_BT[..., None]
        is_before_BTJ = is_its_BTJ & (token_BJ[:, None] <= jnp.arange(T)[:, None])
        number_J = jnp.arange(J)
        image_BT = jnp.where(is_before_BTJ, number_J, -1).max(axis=2)  # the last one before the token
        first_BT, last_BT = (jnp.where(is_its_BTJ, n, -1).max(axis=2) for n in (J - 1 - number_J, number_J))
        first_BT = jnp.where(last_BT >= 0, J - 1 - first_BT, 0)  # of the tree's images

        filled_BJ = tiles_of(forest.images.canvas_BJ, tower.max_tiles) * tower.tile_keys
        filled_BT = jnp.take_along_axis(filled_BJ, jnp.maximum(image_BT, 0), axis=1)
        keys, has_images_BT = tower.max_tiles * tower.tile_keys, image_BT >= 0
        return Memory(
            features_BSX=self.projector(features),
            first_BT=keys * jnp.where(has_images_BT, image_BT, first_BT),
            end_BT=jnp.where(has_images_BT, keys * image_BT + filled_BT, keys * (last_BT + 1)),
            has_images_BT=has_images_BT,
        )

    def layers(self) -> tuple[Layer, ...]:
        """The decoder's layers, of two stacks."""
        config, found = self.config, []
        for number in range(config.num_layers):
            block, place = divmod(number, PERIOD)
            is_cross = place == CROSS
            index = block if is_cross else block * (PERIOD - 1) + place - (place > CROSS)
            name = "cross" if is_cross else "layers"
            found.append(Layer(name, index, config.num_kv_heads, config.head_dim, cross=is_cross))
        return tuple(found)
