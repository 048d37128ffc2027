"""The vision tower of Llama 3.2 Vision: tiles to features, in two stages.

N images, Z tiles of an image, P patches of a tile, C values of a patch, K = P + 1 tokens of a tile with its class
token, S tokens of an image, D width, A canvases, L taps.

Follows transformers' `modeling_mllama.py`, block by block, except for the taps: they are the inputs of the layers that
the config names, as in Meta's code and in transformers up to 4.53, by which the model was trained.

An image's tokens are those of its tiles, one tile after the other, then the padding of all tiles. Tokens of padding and
of empty tiles do not see each other; everything else sees everything, padding included: so each token sees an interval.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmkp_jax.families.mllama.config import VisionConfig
from mmkp_jax.families.mllama.processor import CLIP_MEAN, CLIP_STD, Images
from mmkp_jax.families.mllama.tiles import canvases
from mmkp_jax.models.layers import LayerNorm, Linear, parameter, scan_layers
from mmkp_jax.ops.attention import Attention
from mmkp_jax.ops.backends import RowAttention
from mmkp_jax.ops.layout import over_rows, whole_vectors

NORM_EPS = 1e-5
"""Of the norms before and after the first stage: PyTorch's default."""

GATE = jax.nn.initializers.zeros


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU."""
    return jax.nn.gelu(x, approximate=False)


def opened(gate: nnx.Param, dtype: jnp.dtype) -> jax.Array:
    """How far a gate is open: its tanh, [1]."""
    return jnp.tanh(gate[...]).astype(dtype)


class TileEmbed(nnx.Module):
    """uint8 tiles to vectors: normalised patches, convolution, class token, positions in the tile and in the canvas."""

    def __init__(self, config: VisionConfig, *, rngs):
        D, side, Z, K = config.hidden_size, config.patch_size, config.max_tiles, config.tile_keys
        A = config.canvases + 1  # 0 for no image

        def table(*shape: int) -> nnx.Param:
            return parameter(rngs, shape, (*(None,) * (len(shape) - 1), "vision_embed"), None)

        self.weight = parameter(rngs, (D, 3, side, side), ("vision_embed", None, None, None), None)
        self.cls, self.position = table(D), table(K, D)
        self.tile, self.tile_position = table(A, Z * D), table(A, Z * K * D)
        self.tile_gate, self.position_gate = (parameter(rngs, (1,), (None,), None, GATE) for _ in range(2))
        self.norm = LayerNorm(D, "vision_embed", eps=NORM_EPS, layers=None, rngs=rngs)

    def __call__(self, patch_NZPC: jax.Array, canvas_N: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Vectors of each tile's class token and patches: [N, Z, K, D]."""
        N, Z, P, C = patch_NZPC.shape
        D, tiles_N = len(self.weight[...]), tiles_of(canvas_N, Z)
        mean, std = (np.repeat(np.float32(each), C // 3) for each in (CLIP_MEAN, CLIP_STD))
        x_NZPC = (patch_NZPC.astype(jnp.float32) / 255 - mean) / std
        is_there_NZ = jnp.arange(Z) < tiles_N[:, None]
        x_NZPC = jnp.where(is_there_NZ[..., None, None], x_NZPC, 0).astype(dtype)  # padded after it was normalised
        kernel_DC = self.weight[...].reshape(-1, C).astype(dtype)
        x = jax.lax.dot_general(x_NZPC.reshape(-1, C), kernel_DC, (((1,), (1,)), ((), ())))
        tile_NZ1D = whole_vectors(self.tile[...])[canvas_N].reshape(N, Z, 1, D).astype(dtype)
        x_NZPD = x.reshape(N, Z, P, D) + opened(self.tile_gate, dtype) * tile_NZ1D
        cls_NZ1D = jnp.broadcast_to(self.cls[...].astype(dtype), (N, Z, 1, D))
        gate = opened(self.position_gate, dtype)
        position_NZKD = whole_vectors(self.tile_position[...])[canvas_N].reshape(N, Z, P + 1, D).astype(dtype)
        position_NZKD = (1 - gate) * self.position[...].astype(dtype) + gate * position_NZKD
        return self.norm(jnp.concatenate([cls_NZ1D, x_NZPD], axis=2) + position_NZKD)


class VisionBlock(nnx.Module):
    """A block of the tower: attention over an image, then an MLP; both after LayerNorm, in the second stage gated."""

    def __init__(self, config: VisionConfig, *, gated: bool, layers: int | None, rngs):
        D, F, heads = config.hidden_size, config.intermediate_size, "vision_heads"
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        stacked = dict(layers=layers, rngs=rngs)
        self.norm1 = LayerNorm(D, "vision_embed", eps=config.norm_eps, **stacked)
        self.norm2 = LayerNorm(D, "vision_embed", eps=config.norm_eps, **stacked)
        self.q, self.k, self.v = (Linear((D, D), (heads, "vision_embed"), bias=False, **stacked) for _ in range(3))
        self.o = Linear((D, D), ("vision_embed", heads), bias=False, **stacked)
        self.fc1 = Linear((F, D), ("vision_mlp", "vision_embed"), bias=True, **stacked)
        self.fc2 = Linear((D, F), ("vision_embed", "vision_mlp"), bias=True, **stacked)
        if gated:
            self.attention_gate, self.mlp_gate = (parameter(rngs, (1,), (None,), layers, GATE) for _ in range(2))
        self.gated = gated

    def __call__(self, x_NSD: jax.Array, attend: Attention) -> jax.Array:
        N, S, D = x_NSD.shape
        h_NSD = self.norm1(x_NSD)
        q, k, v = (each(h_NSD).reshape(N, S, self.num_heads, self.head_dim) for each in (self.q, self.k, self.v))
        out_NSD = self.o(attend(q, k, v).reshape(N, S, D))
        x_NSD = x_NSD + (opened(self.attention_gate, x_NSD.dtype) * out_NSD if self.gated else out_NSD)
        out_NSD = self.fc2(gelu(self.fc1(self.norm2(x_NSD))))
        return x_NSD + (opened(self.mlp_gate, x_NSD.dtype) * out_NSD if self.gated else out_NSD)


class Between(nnx.Module):
    """What comes between the stages: a norm, and embeddings of tiles."""

    def __init__(self, config: VisionConfig, *, rngs):
        D = config.hidden_size
        self.norm = LayerNorm(D, "vision_embed", eps=NORM_EPS, layers=None, rngs=rngs)
        self.tile = parameter(rngs, (config.canvases + 1, config.max_tiles * D), (None, "vision_embed"), None)
        self.tile_gate = parameter(rngs, (1,), (None,), None, GATE)
        self.config = config

    def __call__(self, x_NSD: jax.Array, canvas_N: jax.Array) -> jax.Array:
        N, _, D = x_NSD.shape
        config = self.config
        lengths = np.repeat([config.tile_keys, config.padding], config.max_tiles)
        tile_S = np.repeat(np.tile(np.arange(config.max_tiles), 2), lengths)  # of each token
        tile_NZD = whole_vectors(self.tile[...])[canvas_N].reshape(N, -1, D).astype(x_NSD.dtype)
        return self.norm(x_NSD) + opened(self.tile_gate, x_NSD.dtype) * tile_NZD[:, tile_S]


class VisionTower(nnx.Module):
    """Images to features of the tokens of all their tiles."""

    def __init__(self, config: VisionConfig, *, remat: bool, attention: RowAttention, rngs):
        self.embed = TileEmbed(config, rngs=rngs)
        self.blocks = VisionBlock(config, gated=False, layers=config.depth, rngs=rngs)
        self.between = Between(config, rngs=rngs)
        self.global_blocks = VisionBlock(config, gated=True, layers=config.global_depth, rngs=rngs)
        self.config, self.remat, self.attention = config, remat, attention

    def __call__(self, images: Images, dtype: jnp.dtype) -> jax.Array:
        """Features, those of an image's tiles one after the other: [B, J * Z * K, features]."""
        B, J = images.canvas_BJ.shape
        features, keys = self.config.features, self.config.max_tiles * self.config.tile_keys
        if J == 0:  # rows for text only
            return jnp.zeros((B, 0, features), dtype)
        canvas_N = jnp.asarray(images.canvas_BJ).reshape(-1)
        x_NZKD = self.embed(images.patch_BJZPC.reshape(B * J, *images.patch_BJZPC.shape[2:]), canvas_N, dtype)
        found_NKX = self.layers(over_rows(x_NZKD.reshape(B * J, keys, -1)), canvas_N)
        return over_rows(found_NKX.reshape(B, J * keys, features))

    def layers(self, x_NKD: jax.Array, canvas_N: jax.Array) -> jax.Array:
        """Both stages: the last layer's output, then the taps, number by number; without padding, [N, Z * K, X]."""
        config = self.config
        N, keys, _ = x_NKD.shape
        attend = self.attention.intervals(*intervals_of(canvas_N, config), config.slots)
        x_NSD = over_rows(jnp.pad(x_NKD, ((0, 0), (0, config.slots - keys), (0, 0))))
        taps_NLSD = jnp.zeros((N, len(config.taps) + 1, *x_NSD.shape[1:]), x_NSD.dtype)
        # Each layer's input takes the place of the next tap: what stays there is the input of that tap's layer. After
        # the last tap they go to a place that is not read.
        place_L = np.searchsorted(config.taps, np.arange(config.depth))

        def block(layer: VisionBlock, carry: tuple[jax.Array, jax.Array], place: jax.Array):
            x_NSD, taps_NLSD = carry
            taps_NLSD = jax.lax.dynamic_update_index_in_dim(taps_NLSD, x_NSD, place, axis=1)
            return layer(x_NSD, attend), taps_NLSD

        def gated(layer: VisionBlock, x_NSD: jax.Array) -> jax.Array:
            return layer(x_NSD, attend)

        x_NSD, taps_NLSD = scan_layers(self.blocks, (x_NSD, taps_NLSD), block, place_L, remat=self.remat)
        x_NSD = self.between(x_NSD, canvas_N)
        x_NSD = scan_layers(self.global_blocks, x_NSD, gated, remat=self.remat)
        tapped_NKDL = jnp.moveaxis(taps_NLSD[:, :-1, :keys], 1, -1)
        return jnp.concatenate([x_NSD[:, :keys], tapped_NKDL.reshape(N, keys, -1)], axis=-1)


def tiles_of(canvas_N: jax.Array, most: int) -> jax.Array:
    """Tiles of images on these canvases: int32 [N], 0 without image."""
    return jnp.asarray([0] + [rows * columns for rows, columns in canvases(most)], jnp.int32)[canvas_N]


def intervals_of(canvas_N: jax.Array, config: VisionConfig) -> tuple[jax.Array, jax.Array]:
    """The first key that each token of the tower sees, and the end of those that it sees: int32 [N, S] each."""
    filled_N1 = (tiles_of(canvas_N, config.max_tiles) * config.tile_keys)[:, None]
    end_NS = jnp.where(jnp.arange(config.slots) < filled_N1, config.slots, filled_N1)
    return jnp.zeros_like(end_NS), end_NS
