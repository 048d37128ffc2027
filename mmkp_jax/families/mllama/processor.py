"""The images of Llama 3.2 Vision: resized onto a canvas of up to four square tiles, each tile cut into patches.

B rows, T token slots, J image slots, Z tiles of an image, P patches of a tile, C channels x height x width of a patch.

An image is one token, whatever its size. The vision tower computes all `max_tiles` tiles of it, filled or not: tokens
of empty ones take part in its attention, as they did when the model was trained.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from mmkp_jax.data.forest import dtype_and_shape
from mmkp_jax.data.images import check_aspect
from mmkp_jax.data.processor import Layout
from mmkp_jax.data.prompts import Template, read_template
from mmkp_jax.errors import InputError
from mmkp_jax.families.mllama.tiles import Canvas, best_canvas, canvases, size_on

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmkp_jax.families.mllama.config import MllamaConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of RGB, as fractions of 255, that the published preprocessor normalises with."""

TOKENS_AN_IMAGE = 256
"""Tokens of a row for each of its image slots, by default: about those of CMKP's mean post with both targets."""


class Images(NamedTuple):
    """Packed images. A slot that holds nothing has canvas 0."""

    patch_BJZPC: np.ndarray
    """uint8: RGB values of the tiles' patches, both row by row, channel by channel; 0 in tiles without image."""
    canvas_BJ: np.ndarray
    """int32: number of the image's canvas (`tiles.canvases`), from 1; transformers' aspect-ratio id."""
    token_BJ: np.ndarray
    """int32: token slot of the image's token; -1 in an empty slot."""


@dataclasses.dataclass(frozen=True)
class MllamaProcessor:
    """Preprocessing of images for a model of this family (`data.processor.Processor`)."""

    image_token: int
    tile_side: int = 560
    """Pixels along a tile's side."""
    patch_side: int = 14
    """Pixels along a patch's side."""
    max_tiles: int = 4
    """Tiles of an image."""

    slots: ClassVar[tuple[str, ...]] = ("images",)
    values: ClassVar[str] = "patch_BJZPC"
    axes: ClassVar[int] = 1
    pixel_limit: ClassVar[None] = None
    settings: ClassVar[Mapping[str, int]] = {}
    longest_image: ClassVar[int] = 1

    @property
    def fingerprint(self) -> str:
        """Hash of everything that layouts and pixels depend on, except the images."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.tile_side // self.patch_side) ** 2

    @property
    def tile_keys(self) -> int:
        """Keys of a tile: its patches and its class token."""
        return self.patches + 1

    def default_slots(self, tokens: int) -> dict[str, int]:
        """An image for every `TOKENS_AN_IMAGE` tokens of a row."""
        return {"images": math.ceil(tokens / TOKENS_AN_IMAGE)}

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The tokenizer's chat template, which writes one image token for each image."""
        return read_template(tokenizer, image_token=self.image_token)

    def layout(self, height: int, width: int) -> Layout:
        """What an image of this size in pixels becomes: `shape` is its canvas, then its own height and width there.

        Raises:
            ImageError: its aspect is above 200:1.
        """
        check_aspect(height, width)
        canvas = best_canvas(height, width, side=self.tile_side, most=self.max_tiles)
        return Layout(1, (1,), (*canvas, *size_on(canvas, height, width, side=self.tile_side)))

    def largest(self) -> Layout:
        """The layout of an image that fills all tiles."""
        return Layout(1, (1,), (1, self.max_tiles, self.tile_side, self.max_tiles * self.tile_side))

    def placeholder(self, layout: Layout) -> np.ndarray:
        """The image token."""
        return np.full(1, self.image_token, np.int32)

    def pixels(self, image: Image.Image, layout: Layout) -> np.ndarray:
        """The image resized (bilinear), with black to its right and below, and cut: uint8 [tiles, P, C]."""
        rows, columns, height, width = layout.shape
        side, patch = self.tile_side, self.patch_side
        value_HWC = np.zeros((rows * side, columns * side, 3), np.uint8)
        value_HWC[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        blocks = value_HWC.reshape(rows, side // patch, patch, columns, side // patch, patch, 3)
        return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, self.patches, 3 * patch**2)

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """Token indices from 0, int32 [T, 1]: an image is one of them.

        Raises:
            ValueError: the image tokens do not match `layouts`, or two follow each other: a token sees one image.
        """
        image_slots = np.flatnonzero(np.asarray(prompt_T) == self.image_token)
        if len(image_slots) != len(layouts):
            raise ValueError(f"{len(image_slots)} image tokens for {len(layouts)} images")
        if (np.diff(image_slots) == 1).any():
            raise ValueError("there is no text between two images")
        return np.arange(len(prompt_T), dtype=np.int32)[:, None]

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> Images:
        """Rows without images."""
        there, patch = (rows, slots["images"]), 3 * self.patch_side**2
        return Images(
            patch_BJZPC=np.zeros((*there, self.max_tiles, self.patches, patch), np.uint8),
            canvas_BJ=np.zeros(there, np.int32),
            token_BJ=np.full(there, -1, np.int32),
        )

    def lay(
        self, row: Images, layout: Layout, pixels: np.ndarray | None, *, number: int, token: int, starts: Sequence[int]
    ) -> None:
        """Writes one image into views of a row; without `pixels`, all but their values.

        Raises:
            ValueError: the pixels do not match the layout.
        """
        canvas: Canvas = layout.shape[:2]
        tiles, (slot,) = math.prod(canvas), starts
        expected = (tiles, *row.patch_BJZPC.shape[-2:])
        if pixels is not None and pixels.shape != expected:
            what = f"not {list(expected)} for its canvas of {' x '.join(map(str, canvas))} tiles"
            raise ValueError(f"image {number} is {dtype_and_shape(pixels)}, {what}")
        if pixels is not None:
            row.patch_BJZPC[slot, :tiles] = pixels
        row.canvas_BJ[slot] = 1 + canvases(self.max_tiles).index(canvas)
        row.token_BJ[slot] = token

    def filled(self, images: Images) -> dict[str, Any]:
        """Masks of the filled slots."""
        return {"images": images.canvas_BJ > 0}

    def rgb(self, row: Images) -> list[np.ndarray]:
        """The canvases of a row's images, uint8 [height, width, 3] each: black where there is no image."""
        return [
            self._put_together(tile_ZPC, canvases(self.max_tiles)[number - 1])
            for tile_ZPC, number in zip(row.patch_BJZPC, row.canvas_BJ, strict=True)
            if number
        ]

    def _put_together(self, tile_ZPC: np.ndarray, canvas: Canvas) -> np.ndarray:
        (rows, columns), patch = canvas, self.patch_side
        n = self.tile_side // patch
        blocks = tile_ZPC[: rows * columns].reshape(rows, columns, n, n, 3, patch, patch)
        return blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * self.tile_side, columns * self.tile_side, 3)

    def work(self, images: Images, segment_BT: np.ndarray) -> dict[str, float]:
        """Images, filled tiles, pairs of the tower's tokens, and pairs of a token and a key of its image."""
        T, J = segment_BT.shape[-1], images.canvas_BJ.shape[-1]
        tiles = np.array([0, *map(math.prod, canvases(self.max_tiles))])
        rows = zip(
            segment_BT.reshape(-1, T),
            images.token_BJ.reshape(-1, J),
            tiles[images.canvas_BJ].reshape(-1, J),
            strict=True,
        )
        cross = sum(self._cross_pairs(*row) for row in rows) if J else 0
        return self._work(tiles[images.canvas_BJ[images.canvas_BJ > 0]], cross)

    def _cross_pairs(self, segment_T: np.ndarray, token_J: np.ndarray, tiles_J: np.ndarray) -> float:
        """Keys that the tokens of a row see: of the filled tiles of the last image before a token, or, before its
        tree's first image, of all tiles of the tree's images."""
        pairs = 0.0
        for segment in range(1, int(segment_T.max(initial=0)) + 1):
            slots = np.flatnonzero(segment_T == segment)
            its = np.flatnonzero((token_J >= 0) & (segment_T[token_J] == segment))
            if len(its):
                starts = np.searchsorted(slots, [*token_J[its], slots[-1] + 1])
                pairs += starts[0] * len(its) * self.max_tiles + float(np.diff(starts) @ tiles_J[its])
        return self.tile_keys * pairs

    def work_of_posts(self, slots_NX: np.ndarray, token_N: np.ndarray) -> dict[str, float]:
        """The quantities of `work`, as if every image filled all tiles: so do those above 560 pixels on both sides."""
        image_N = np.asarray(slots_NX, np.float64)[:, 0]
        full = self._work(np.array([self.max_tiles]), 0.0)
        pairs = float((image_N * token_N).sum()) * self.max_tiles * self.tile_keys
        return {name: float(image_N.sum()) * value for name, value in full.items()} | {"cross_pairs": pairs}

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """The quantities of `work` if every token of a row sees the keys of all its images, and no tile is empty."""
        images = slots["images"]
        full = self._work(np.full(images, self.max_tiles), images * self.max_tiles * self.tile_keys * slots["tokens"])
        return full | {"tower_pairs": float(images * self.tower_slots**2)}

    @property
    def tower_slots(self) -> int:
        """Tokens of the tower for an image: those of every tile, padded to a multiple of 8."""
        return self.max_tiles * -(-self.tile_keys // 8) * 8

    def _work(self, tiles_N: np.ndarray, cross_pairs: float) -> dict[str, float]:
        """The quantities for images that fill these tiles. Only pairs of padding and padding are left out."""
        padding_N = self.tower_slots - np.asarray(tiles_N, np.float64) * self.tile_keys
        return {
            "images": float(len(tiles_N)),
            "tiles": float(np.sum(tiles_N)),
            "tower_pairs": float((self.tower_slots**2 - padding_N**2).sum()),
            "cross_pairs": float(cross_pairs),
        }


def processor_of(config: "MllamaConfig", settings: Mapping[str, int]) -> MllamaProcessor:
    """The processor of a model; its images have no settings.

    Raises:
        InputError: a setting is given.
    """
    for name in settings:
        what = f"images of this model have no setting {name!r}"
        raise InputError(what, f"config.data.images.{name}", "leave it out: every image takes one token and four tiles")
    tower = config.vision
    return MllamaProcessor(config.image_token_id, tower.image_size, tower.patch_size, tower.max_tiles)
