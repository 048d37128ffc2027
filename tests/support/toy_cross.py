"""The toy family with images: every other layer is cross-attention to the tiles of a tree's image."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.processor import Layout, TextProcessor
from mmkp_jax.models.layers import Linear, RMSNorm
from mmkp_jax.models.model import Layer, Memory
from mmkp_jax.ops.backends import ANY_ROWS
from tests.support.toy_family import FAMILY as TOY
from tests.support.toy_family import HEADS, WIDTH_A_HEAD, Toy, ToyLayer

IMAGE, KEYS, VALUES = 3, 4, 6
"""The image token; keys of a tile, and values of a key."""


class Tiles(NamedTuple):
    pixel_BZKV: np.ndarray
    """uint8"""
    token_BZ: np.ndarray
    """int32: slot of the image's token; -1 in an empty tile."""


@dataclasses.dataclass(frozen=True)
class TileProcessor(TextProcessor):
    """An image of n tiles: one token and n slots."""

    slots: ClassVar[tuple[str, ...]] = ("tiles",)
    values: ClassVar[str] = "pixel_BZKV"
    image_token: ClassVar[int] = IMAGE

    def default_slots(self, tokens):
        return {"tiles": tokens // 16}

    def layout(self, height, width):
        return Layout(1, (width,), ())

    def empty(self, rows, tokens, slots):
        tiles = slots["tiles"]
        return Tiles(np.zeros((rows, tiles, KEYS, VALUES), np.uint8), np.full((rows, tiles), -1, np.int32))

    def lay(self, row, layout, pixels, *, number, token, starts):
        filled = slice(starts[0], starts[0] + layout.slots[0])
        row.token_BZ[filled] = token
        if pixels is not None:
            row.pixel_BZKV[filled] = pixels


class CrossLayer(ToyLayer):
    """Attention to images, with keys that no rotation touches; a token without images passes unchanged."""

    def __init__(self, *, layers, rngs):
        super().__init__(layers=layers, rngs=rngs)
        self.norm_k = RMSNorm(HEADS * WIDTH_A_HEAD, "embed", eps=1e-6, layers=layers, rngs=rngs)

    def project(self, features_BSD):
        B, S, _ = features_BSD.shape
        k, v = self.k(self.norm_k(features_BSD)), self.v(features_BSD)
        return k.reshape(B, S, HEADS, WIDTH_A_HEAD), v.reshape(B, S, HEADS, WIDTH_A_HEAD)

    def __call__(self, x_BTD, rotation, attend):
        B, T, _ = x_BTD.shape
        q = self.q(self.norm(x_BTD)).reshape(B, T, HEADS, WIDTH_A_HEAD)
        out_BTD = self.mix(attend.images(q, self.project).reshape(B, T, -1))
        return x_BTD + jnp.where(attend.has_images_BT[..., None], jnp.tanh(out_BTD) + 0.1, 0)  # as if by an MLP


class ToyCross(Toy):
    def __init__(self, config, *, remat=False, attention=ANY_ROWS, rngs):
        super().__init__(config, remat=remat, attention=attention, rngs=rngs)
        self.odd = CrossLayer(layers=config.num_layers // 2, rngs=rngs)
        self.tower = Linear((config.hidden_size, VALUES), ("embed", None), bias=True, layers=None, rngs=rngs)

    def __call__(self, forest, dtype):
        return self.decode(forest, self.encode(forest.images, dtype), dtype)

    def encode(self, images, dtype):
        B = len(images.token_BZ)
        return self.tower(images.pixel_BZKV.reshape(B, -1, VALUES).astype(dtype) / 255)

    def memory(self, forest, features, dtype):
        token_BZ, segment_BT = jnp.asarray(forest.images.token_BZ), jnp.asarray(forest.segment_BT)
        tree_BZ = jnp.where(token_BZ >= 0, jnp.take_along_axis(segment_BT, jnp.maximum(token_BZ, 0), axis=1), 0)
        after_BTZ = jnp.arange(segment_BT.shape[1])[:, None] >= token_BZ[:, None]
        sees_BTZ = after_BTZ & (tree_BZ[:, None] == segment_BT[..., None]) & (token_BZ >= 0)[:, None]
        number_Z = jnp.arange(token_BZ.shape[1])
        first_BT = KEYS * jnp.min(jnp.where(sees_BTZ, number_Z, len(number_Z)), axis=2, initial=len(number_Z))
        return Memory(features, first_BT, first_BT + KEYS * sees_BTZ.sum(axis=2), sees_BTZ.any(axis=2))

    def layers(self):
        return tuple(
            Layer(("even", "odd")[i % 2], i // 2, HEADS, WIDTH_A_HEAD, cross=i % 2 == 1)
            for i in range(self.config.num_layers)
        )


FAMILY = dataclasses.replace(TOY, name="toy_cross", build=ToyCross, processor=lambda config, settings: TileProcessor())
