"""InternVL3 over packed rows: the vision tower, the projector, and the model that joins them to a Qwen2.5 decoder.

B rows, T tokens, L tiles of a row, Z = B * L, P patches of a tile, S = P + 1, C values of a patch, M merged patches of
a row, D model width, N heads, H head width, V vocabulary.

Follows transformers' `modeling_internvl.py`, block by block. The patches of a tile are in merge order here, and the
class token comes after them: attention does not depend on the order, and the pixel shuffle becomes a reshape.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.families.internvl.config import InternVLConfig, VisionConfig
from mmkp_jax.families.internvl.processor import IMAGENET_MEAN, IMAGENET_STD, MERGE, Images
from mmkp_jax.families.internvl.tiles import merge_order
from mmkp_jax.models.decoder import DecoderModel
from mmkp_jax.models.layers import LayerNorm, Linear, parameter, scan_layers
from mmkp_jax.ops.attention import Attention
from mmkp_jax.ops.backends import ANY_ROWS, RowAttention
from mmkp_jax.ops.layout import over_rows

PROJECTOR_NORM_EPS = 1e-5
"""PyTorch's default, unlike the tower's."""

LAYER_SCALE = 0.1
"""Initial factor of what attention and MLP add to a block's input."""


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU."""
    return jax.nn.gelu(x, approximate=False)


class TileEmbed(nnx.Module):
    """uint8 tiles to vectors: normalised patches, the convolution whose stride is its size, class token, positions."""

    def __init__(self, config: VisionConfig, *, rngs):
        D, side = config.hidden_size, config.patch_size
        self.weight = parameter(rngs, (D, 3, side, side), ("vision_embed", None, None, None), None)
        self.bias = parameter(rngs, (D,), ("vision_embed",), None, jax.nn.initializers.zeros)
        self.cls = parameter(rngs, (1, 1, D), (None, None, "vision_embed"), None)
        self.position = parameter(rngs, (1, config.patches + 1, D), (None, None, "vision_embed"), None)
        self.side = config.side

    def __call__(self, tile_ZPC: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Vectors of each tile's patches and of its class token, which comes last: [Z, S, D]."""
        Z, P, C = tile_ZPC.shape
        mean, std = (np.repeat(np.float32(each), C // 3) for each in (IMAGENET_MEAN, IMAGENET_STD))
        x_ZPC = ((tile_ZPC.astype(jnp.float32) / 255 - mean) / std).astype(dtype)
        kernel_DC = self.weight[...].reshape(-1, C).astype(dtype)
        x = jax.lax.dot_general(x_ZPC.reshape(-1, C), kernel_DC, (((1,), (1,)), ((), ())))
        x_ZPD = (x + self.bias[...].astype(dtype)).reshape(Z, P, -1)
        position_SD = self.position[...][0].astype(dtype)
        cls_11D = self.cls[...].astype(dtype) + position_SD[None, :1]
        x_ZPD = x_ZPD + position_SD[1 + merge_order(self.side, MERGE)]
        return jnp.concatenate([x_ZPD, jnp.broadcast_to(cls_11D, (Z, *cls_11D.shape[1:]))], axis=1)


class VisionBlock(nnx.Module):
    """A block of the tower: attention within each tile, then an MLP; both after LayerNorm, and scaled."""

    def __init__(self, config: VisionConfig, *, layers: int | None, rngs):
        D, F, heads = config.hidden_size, config.intermediate_size, "vision_heads"
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        stacked = dict(layers=layers, rngs=rngs)
        self.norm1 = LayerNorm(D, "vision_embed", eps=config.norm_eps, **stacked)
        self.norm2 = LayerNorm(D, "vision_embed", eps=config.norm_eps, **stacked)
        self.q, self.k, self.v = (Linear((D, D), (heads, "vision_embed"), bias=True, **stacked) for _ in range(3))
        self.proj = Linear((D, D), ("vision_embed", heads), bias=True, **stacked)
        self.fc1 = Linear((F, D), ("vision_mlp", "vision_embed"), bias=True, **stacked)
        self.fc2 = Linear((D, F), ("vision_embed", "vision_mlp"), bias=True, **stacked)
        start = jax.nn.initializers.constant(LAYER_SCALE)
        self.ls1, self.ls2 = (parameter(rngs, (D,), ("vision_embed",), layers, start) for _ in range(2))

    def __call__(self, x_ZSD: jax.Array, attend: Attention) -> jax.Array:
        Z, S, D = x_ZSD.shape
        h_ZSD = self.norm1(x_ZSD)
        q, k, v = (each(h_ZSD).reshape(Z, S, self.num_heads, self.head_dim) for each in (self.q, self.k, self.v))
        out_ZSD = self.proj(attend(q, k, v).reshape(Z, S, D))
        x_ZSD = x_ZSD + self.ls1[...].astype(x_ZSD.dtype) * out_ZSD
        out_ZSD = self.fc2(gelu(self.fc1(self.norm2(x_ZSD))))
        return x_ZSD + self.ls2[...].astype(x_ZSD.dtype) * out_ZSD


class VisionTower(nnx.Module):
    """Tiles to features of their patches; there is no norm after the last block."""

    def __init__(self, config: VisionConfig, *, remat: bool, attention: RowAttention, rngs):
        self.embed = TileEmbed(config, rngs=rngs)
        self.blocks = VisionBlock(config, layers=config.depth, rngs=rngs)
        self.config, self.remat = config, remat
        self.attention = dataclasses.replace(attention, longest_image=None)  # a tile is a row of its own here

    def __call__(self, images: Images, dtype: jnp.dtype) -> jax.Array:
        """Features of each merged patch, its four patches side by side: [B, M, 4 D]."""
        B, L, P, C = images.tile_BLPC.shape
        width = MERGE**2 * self.config.hidden_size
        if L == 0:  # rows for text only
            return jnp.zeros((B, 0, width), dtype)
        attend = self.attention.images(jnp.ones((B * L, P + 1), jnp.int32))

        def block(layer: VisionBlock, x_ZSD: jax.Array) -> jax.Array:
            return layer(x_ZSD, attend)

        x_ZSD = over_rows(self.embed(images.tile_BLPC.reshape(B * L, P, C), dtype))
        x_ZSD = scan_layers(self.blocks, x_ZSD, block, remat=self.remat)
        return over_rows(x_ZSD[:, :P].reshape(B, -1, width))


class Projector(nnx.Module):
    """Merged patches to image tokens."""

    def __init__(self, config: InternVLConfig, *, rngs):
        joined, D = MERGE**2 * config.vision.hidden_size, config.hidden_size
        self.norm = LayerNorm(joined, "vision_embed", eps=PROJECTOR_NORM_EPS, layers=None, rngs=rngs)
        self.up = Linear((D, joined), ("vision_mlp", "vision_embed"), bias=True, layers=None, rngs=rngs)
        self.down = Linear((D, D), ("embed", "vision_mlp"), bias=True, layers=None, rngs=rngs)

    def __call__(self, x_BMD: jax.Array) -> jax.Array:
        return self.down(gelu(self.up(self.norm(x_BMD))))


class InternVL(DecoderModel):
    """The InternVL3 model.

    `remat` saves only each layer's input, and what attention saves, for the backward pass.
    """

    def __init__(
        self, config: InternVLConfig, *, remat: bool = False, attention: RowAttention = ANY_ROWS, rngs: nnx.Rngs
    ):
        super().__init__(config, remat=remat, attention=attention, rngs=rngs)
        self.tower = VisionTower(config.vision, remat=remat, attention=attention, rngs=rngs)
        self.projector = Projector(config, rngs=rngs)

    def encode(self, images: Images, dtype: jnp.dtype) -> jax.Array:
        """The vision tower's features of every merged patch, [B, M, 4 D]; the projector is part of `embed`."""
        return self.tower(images, dtype)

    def embed(self, forest: Forest, features: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Token embeddings, with each image's projected features in place of its image tokens: [B, T, D]."""
        x_BTD = self.embed_tokens(forest, dtype)
        if features.shape[1] > 0:
            merged_BMD, merged_BT = self.projector(features), forest.images.merged_BT
            image_BTD = jnp.take_along_axis(merged_BMD, jnp.maximum(merged_BT, 0)[..., None], axis=1)
            x_BTD = jnp.where(merged_BT[..., None] >= 0, image_BTD, x_BTD)
        return over_rows(x_BTD)
