"""Qwen2.5-VL over packed rows: the vision tower, and the model that joins it with the shared decoder.

B rows, T tokens, P patches, C values of a patch, W windows (tiles of 64 patches), M merged patches, D model width,
N heads, H head width, I = H / 2, L layers.

Follows transformers' `modeling_qwen2_5_vl.py`, block by block, for still images. Its two equal frames of an image
are one here: the patch embedding's kernel is summed over its time axis.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmkp_jax.data.forest import Forest
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig, VisionConfig
from mmkp_jax.families.qwen2_5_vl.processor import CLIP_MEAN, CLIP_STD, Images
from mmkp_jax.models.decoder import DecoderModel
from mmkp_jax.models.layers import (
    Linear,
    RMSNorm,
    Rotation,
    SwiGLU,
    parameter,
    rotate,
    rotation_by,
    scan_layers,
)
from mmkp_jax.models.rope import rotary_frequencies
from mmkp_jax.ops.attention import Attention, dense_attention
from mmkp_jax.ops.backends import ANY_ROWS, RowAttention
from mmkp_jax.ops.layout import over_rows
from mmkp_jax.ops.tiles import Tiles, from_tiles, lay_tiles, to_tiles

VISION_NORM_EPS = 1e-6


class PatchEmbed(nnx.Module):
    """uint8 patches to vectors: normalise, then the convolution whose stride is its size."""

    def __init__(self, config: VisionConfig, *, rngs):
        side = config.patch_size
        self.weight = parameter(
            rngs,
            (config.hidden_size, config.in_channels, config.temporal_patch_size, side, side),
            ("vision_embed", None, None, None, None),
            None,
        )

    def __call__(self, patch_BPC: jax.Array, dtype: jnp.dtype) -> jax.Array:
        channels, values = self.weight.shape[1], self.weight.shape[-1] ** 2
        mean, std = (np.repeat(np.float32(s), values) for s in (CLIP_MEAN, CLIP_STD))
        x_BPC = ((patch_BPC.astype(jnp.float32) / 255 - mean) / std).astype(dtype)
        kernel_DC = self.weight[...].astype(jnp.float32).sum(axis=2).reshape(-1, channels * values).astype(dtype)
        return jnp.einsum("bpc,dc->bpd", x_BPC, kernel_DC)


class VisionBlock(nnx.Module):
    """A block of the tower: attention within windows, or over each whole image."""

    def __init__(self, config: VisionConfig, *, layers: int | None, rngs):
        D, heads = config.hidden_size, "vision_heads"
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.norm1 = RMSNorm(D, "vision_embed", eps=VISION_NORM_EPS, layers=layers, rngs=rngs)
        self.norm2 = RMSNorm(D, "vision_embed", eps=VISION_NORM_EPS, layers=layers, rngs=rngs)
        self.qkv = Linear((3 * D, D), (heads, "vision_embed"), bias=True, layers=layers, rngs=rngs)
        self.proj = Linear((D, D), ("vision_embed", heads), bias=True, layers=layers, rngs=rngs)
        self.mlp = SwiGLU(
            D, config.intermediate_size, ("vision_embed", "vision_mlp"), bias=True, layers=layers, rngs=rngs
        )

    def __call__(
        self,
        x_BPD: jax.Array,
        rotation: Rotation,
        tiles: Tiles,
        attend_image: Attention,
        full: jax.Array,
    ) -> jax.Array:
        """Applies the block; `full` (bool scalar) selects attention over the image instead of the window."""
        B, P, D = x_BPD.shape
        qkv_BPD = self.qkv(self.norm1(x_BPD)).reshape(B, P, 3, self.num_heads, self.head_dim)
        q, k, v = (qkv_BPD[:, :, i] for i in range(3))
        q, k = rotate(q, rotation), rotate(k, rotation)
        x_BPNH = jax.lax.cond(full, attend_image, lambda q, k, v: window_attention(q, k, v, tiles), q, k, v)
        x_BPD = x_BPD + self.proj(x_BPNH.reshape(B, P, D))
        return x_BPD + self.mlp(self.norm2(x_BPD))


def window_attention(q_BPNH: jax.Array, k_BPNH: jax.Array, v_BPNH: jax.Array, tiles: Tiles) -> jax.Array:
    """Attention within each window, as one batch of dense tiles."""
    B, _, N, H = q_BPNH.shape
    _, W, Z = tiles.filled_BWZ.shape
    q, k, v = (to_tiles(x, tiles).reshape(B * W, Z, N, H) for x in (q_BPNH, k_BPNH, v_BPNH))
    out = dense_attention(q, k, v, tiles.filled_BWZ.reshape(B * W, 1, Z))
    return from_tiles(out.reshape(B, W, Z, N, H), tiles)


class Merger(nnx.Module):
    """Joins merge² neighbouring patches into one image token: the projector of the paper."""

    def __init__(self, config: VisionConfig, *, rngs):
        joined = config.hidden_size * config.merge_size**2
        self.norm = RMSNorm(config.hidden_size, "vision_embed", eps=VISION_NORM_EPS, layers=None, rngs=rngs)
        self.up = Linear((joined, joined), ("vision_mlp", "vision_embed"), bias=True, layers=None, rngs=rngs)
        self.down = Linear((config.out_hidden_size, joined), ("embed", "vision_mlp"), bias=True, layers=None, rngs=rngs)

    def __call__(self, x_BPD: jax.Array) -> jax.Array:
        B, _, _ = x_BPD.shape
        x = self.norm(x_BPD).reshape(B, -1, self.up.weight.shape[1])
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class VisionTower(nnx.Module):
    """Patches to features, and, with the merger, to image tokens; all in window order."""

    def __init__(self, config: VisionConfig, *, remat: bool, attention: RowAttention, rngs):
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.blocks = VisionBlock(config, layers=config.depth, rngs=rngs)
        self.merger = Merger(config, rngs=rngs)
        self.config, self.remat, self.attention = config, remat, attention

    def __call__(self, images: Images, dtype: jnp.dtype) -> jax.Array:
        """Features of every patch, before the merger: [B, P, D]."""
        config = self.config
        if images.patch_BPC.shape[1] == 0:  # rows for text only
            return jnp.zeros((*images.image_BP.shape, config.hidden_size), dtype)
        full_L = np.isin(np.arange(config.depth), config.full_attention_layers)
        rotation = vision_rotation(images.patch_position_BP2, config)
        tiles = lay_tiles(images.window_BW, images.image_BP.shape[1], config.tile_size)
        attend_image = self.attention.images(images.image_BP)

        def block(layer: VisionBlock, x_BPD: jax.Array, full: jax.Array) -> jax.Array:
            return layer(x_BPD, rotation, tiles, attend_image, full)

        x_BPD = over_rows(self.patch_embed(images.patch_BPC, dtype))
        return scan_layers(self.blocks, x_BPD, block, full_L, remat=self.remat)


def vision_rotation(position_BP2: jax.Array, config: VisionConfig) -> Rotation:
    """Rotation of patches, [B, P, I]: the first half of the pairs by the row, the second by the column."""
    frequency = rotary_frequencies(config.head_dim // 2, config.rope_theta)
    return rotation_by((position_BP2[..., None] * frequency).reshape(*position_BP2.shape[:2], -1))


def mrope_rotation(position_BT3: jax.Array, config: Qwen2_5_VLConfig) -> Rotation:
    """Rotation of tokens, [B, T, I]: sections of the pairs by time, row and column, as `mrope_section` says."""
    axis_I = np.repeat(np.arange(3), config.mrope_section)
    return rotation_by(position_BT3[..., axis_I] * rotary_frequencies(config.head_dim, config.rope_theta))


class Qwen2_5_VL(DecoderModel):
    """The Qwen2.5-VL model.

    `remat` saves only each layer's input, and what attention saves, for the backward pass.
    """

    def __init__(
        self,
        config: Qwen2_5_VLConfig,
        *,
        remat: bool = False,
        attention: RowAttention = ANY_ROWS,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, remat=remat, attention=attention, rngs=rngs)
        self.visual = VisionTower(config.vision, remat=remat, attention=attention, rngs=rngs)

    def encode(self, images: Images, dtype: jnp.dtype) -> jax.Array:
        """The vision tower's features of every patch, [B, P, D]; the merger is part of `embed`."""
        return self.visual(images, dtype)

    def embed(self, forest: Forest, features: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Token embeddings, with each image's merged features in place of its image tokens: [B, T, D]."""
        x_BTD = self.embed_tokens(forest, dtype)
        if features.shape[1] > 0:
            merged_BMD, merged_BT = self.visual.merger(features), forest.images.merged_BT
            image_BTD = jnp.take_along_axis(merged_BMD, jnp.maximum(merged_BT, 0)[..., None], axis=1)
            x_BTD = jnp.where(merged_BT[..., None] >= 0, image_BTD, x_BTD)
        return over_rows(x_BTD)

    def rotation(self, position_BTA: jax.Array) -> Rotation:
        """M-RoPE rotation by (time, row, column)."""
        return mrope_rotation(position_BTA, self.config)
