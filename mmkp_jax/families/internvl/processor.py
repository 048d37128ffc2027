"""InternVL3's images: resized to a grid of square tiles and a thumbnail, each tile cut into patches.

B rows, T token slots, L tile slots, P patches of a tile, C channels x height x width of a patch.

A tile costs the same whatever it shows, and their number depends on an image's shape far more than on its size: every
4:3 image takes 13 tiles, 3,328 tokens, under the published limit of 12.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from mmkp_jax.data.forest import dtype_and_shape
from mmkp_jax.data.images import check_aspect
from mmkp_jax.data.processor import Layout
from mmkp_jax.data.prompts import Pieces, Template, read_template, template_of
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.families.internvl.tiles import Grid, best_grid

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmkp_jax.families.internvl.config import InternVLConfig

MERGE = 2
"""Patches along a merged patch's side, each of which becomes an image token."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB, as fractions of 255, that the published preprocessor normalises with."""

MAX_TILES = 12
"""Tiles of an image at most, without the thumbnail, where neither config nor folder gives another number."""

MOST_TILES = 64
"""The largest limit that a config may give."""

START, CONTEXT, END = "<img>", "<IMG_CONTEXT>", "</img>"
"""The tokens around an image's tokens, and the image token."""

SYSTEM = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
"""The system line of the conversation template `internvl2_5` of the original folders."""


class Images(NamedTuple):
    """Packed images. Slots that hold nothing are padding: image 0."""

    merged_BT: np.ndarray
    """int32: the row's merged patch of an image token, tile by tile; -1 for text."""
    tile_BLPC: np.ndarray
    """uint8: RGB values of a tile's patches, channel by channel, in merge order (`tiles.merge_order`)."""
    image_BL: np.ndarray
    """int32: which image of the row a tile belongs to, from 1; 0 is padding."""
    place_BL2: np.ndarray
    """int32: (row, column) of the tile in its image; -1 for a thumbnail."""


@dataclasses.dataclass(frozen=True)
class InternVLProcessor:
    """Preprocessing of images for a model of this family (`data.processor.Processor`)."""

    image_token: int
    tile_side: int = 448
    """Pixels along a tile's side."""
    patch_side: int = 14
    """Pixels along a patch's side."""
    max_tiles: int = MAX_TILES
    """Tiles of an image at most; an image of more than one has its thumbnail as a further one."""
    max_positions: int = 32_768
    """Most tokens of a row: beyond as many positions, transformers would rotate all of them by other angles."""
    own_template: bool = True
    """Whether prompts follow the tokenizer's chat template; else the original `conversation.py`'s `internvl2_5`."""

    slots: ClassVar[tuple[str, ...]] = ("tiles",)
    values: ClassVar[str] = "tile_BLPC"
    axes: ClassVar[int] = 1
    pixel_limit: ClassVar[None] = None

    @property
    def fingerprint(self) -> str:
        """Hash of everything that layouts and pixels depend on, except the images."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, int]:
        """The settings of `config.data.images`, with their values."""
        return {"max_tiles": self.max_tiles}

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.tile_side // self.patch_side) ** 2

    @property
    def tile_tokens(self) -> int:
        """Image tokens of a tile."""
        return self.patches // MERGE**2

    def default_slots(self, tokens: int) -> dict[str, int]:
        """As many tiles as the tokens of a row hold.

        Raises:
            InputError: a row has more tokens than the model has positions.
        """
        if tokens > self.max_positions:
            what = f"a row has {tokens:,} tokens, and the model {self.max_positions:,} positions"
            raise InputError(what, "config.row.tokens", "give shorter rows")
        return {"tiles": tokens // self.tile_tokens}

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The chat template with `<img>`, the image token and `</img>` for each image.

        transformers' processor puts the two tokens around the image token that the tokenizer's template writes, and so
        does this. The original layout takes its prompts from its own code, in which they have a Chinese system line.

        Raises:
            InputError: the tokenizer lacks one of the tokens, or has no such template.
        """
        number = tokenizer.convert_tokens_to_ids(CONTEXT)
        if number != self.image_token:
            what = f"{CONTEXT} is token {number}, and the model's image token is {self.image_token}"
            where = f"the tokenizer of {tokenizer.name_or_path}"
            raise InputError(what, where, "take tokenizer and config.json from one checkpoint")
        image = f"{START}{CONTEXT}{END}"
        if self.own_template:
            replaced = {CONTEXT: image, "<image>": image}  # which templates of the first releases write
            return read_template(tokenizer, image_token=self.image_token, replaced=replaced)
        before = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        pieces = Pieces(before, f"{before}{image}\n", "<|im_end|>\n<|im_start|>assistant\n")
        return template_of(tokenizer, pieces, image_token=self.image_token)

    def layout(self, height: int, width: int) -> Layout:
        """What an image of this size in pixels becomes.

        Raises:
            ImageError: its aspect is above 200:1.
        """
        check_aspect(height, width)
        return self.layout_of(best_grid(height, width, side=self.tile_side, most=self.max_tiles))

    def layout_of(self, grid: Grid) -> Layout:
        """The layout of a grid of tiles, down and across."""
        tiles = grid[0] * grid[1]
        tiles += tiles > 1  # the thumbnail
        return Layout(tiles * self.tile_tokens, (tiles,), tuple(grid))

    def largest(self) -> Layout:
        """The layout of an image of `max_tiles` tiles."""
        return self.layout_of((1, self.max_tiles))

    @property
    def longest_image(self) -> int:
        """Most tiles of an image of any shape, with the thumbnail."""
        return self.largest().slots[0]

    def placeholder(self, layout: Layout) -> np.ndarray:
        """A run of the image token, one for each merged patch of each tile."""
        return np.full(layout.tokens, self.image_token, np.int32)

    def pixels(self, image: Image.Image, layout: Layout) -> np.ndarray:
        """The tiles row by row, then the thumbnail: uint8 [tiles, P, C], patches in merge order.

        The whole image is resized to the grid (bicubic), whatever its aspect; so is the thumbnail, to one tile.
        """
        (rows, columns), side = layout.shape, self.tile_side
        whole = np.asarray(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
        tile_LHWC = whole.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        if rows * columns > 1:
            thumbnail = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
            tile_LHWC = np.concatenate([tile_LHWC, thumbnail[None]])
        merged, patch = side // self.patch_side // MERGE, self.patch_side
        blocks = tile_LHWC.reshape(-1, merged, MERGE, patch, merged, MERGE, patch, 3)
        return blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, self.patches, 3 * patch * patch)

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """Token indices from 0, int32 [T, 1]: an image token has a position of its own, as text has.

        Raises:
            ValueError: the image tokens do not match `layouts`.
        """
        found, expected = int((prompt_T == self.image_token).sum()), sum(layout.tokens for layout in layouts)
        if found != expected:
            raise ValueError(f"{found} image tokens for images of {expected} merged patches")
        return np.arange(len(prompt_T), dtype=np.int32)[:, None]

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> Images:
        """Rows without images."""
        tiles = slots["tiles"]
        return Images(
            merged_BT=np.full((rows, tokens), -1, np.int32),
            tile_BLPC=np.zeros((rows, tiles, self.patches, 3 * self.patch_side**2), np.uint8),
            image_BL=np.zeros((rows, tiles), np.int32),
            place_BL2=np.zeros((rows, tiles, 2), np.int32),
        )

    def lay(
        self, row: Images, layout: Layout, pixels: np.ndarray | None, *, number: int, token: int, starts: Sequence[int]
    ) -> None:
        """Writes one image into views of a row; without `pixels`, all but their values.

        Raises:
            ValueError: the pixels do not match the layout.
        """
        (tiles,), (start,) = layout.slots, starts
        expected = (tiles, *row.tile_BLPC.shape[1:])
        if pixels is not None and pixels.shape != expected:
            grid = " x ".join(map(str, layout.shape))
            raise ValueError(f"image {number} is {dtype_and_shape(pixels)}, not {list(expected)} for its {grid} tiles")
        here = slice(start, start + tiles)
        if pixels is not None:
            row.tile_BLPC[here] = pixels
        row.image_BL[here] = number
        places = np.indices(layout.shape).reshape(2, -1).T
        row.place_BL2[here] = -1
        row.place_BL2[start : start + len(places)] = places
        row.merged_BT[token : token + layout.tokens] = start * self.tile_tokens + np.arange(layout.tokens)

    def filled(self, images: Images) -> dict[str, Any]:
        """The mask of the filled tiles."""
        return {"tiles": images.image_BL > 0}

    def rgb(self, row: Images) -> list[np.ndarray]:
        """The images of a row as they were resized to their grids, uint8 [height, width, 3] each; no thumbnails."""
        return [self._put_together(row, number) for number in range(1, int(row.image_BL.max(initial=0)) + 1)]

    def _put_together(self, row: Images, number: int) -> np.ndarray:
        is_its_L = (row.image_BL == number) & (row.place_BL2[:, 0] >= 0)
        (rows, columns), patch = row.place_BL2[is_its_L].max(axis=0) + 1, self.patch_side
        merged = self.tile_side // patch // MERGE
        blocks = row.tile_BLPC[is_its_L].reshape(rows, columns, merged, merged, MERGE, MERGE, 3, patch, patch)
        return blocks.transpose(0, 2, 4, 7, 1, 3, 5, 8, 6).reshape(rows * self.tile_side, columns * self.tile_side, 3)

    def work(self, images: Images, segment_BT: np.ndarray) -> dict[str, float]:
        """Filled tiles."""
        return {"tiles": float(np.count_nonzero(images.image_BL))}

    def work_of_posts(self, slots_NX: np.ndarray, token_N: np.ndarray) -> dict[str, float]:
        """The posts' tiles."""
        return {"tiles": float(np.asarray(slots_NX, np.float64).sum())}

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """All tiles of a row."""
        return {"tiles": float(slots["tiles"])}


def processor_of(config: "InternVLConfig", settings: Mapping[str, int]) -> InternVLProcessor:
    """The processor of a model, with a config's settings of images.

    Raises:
        InputError: a setting is unknown or out of range.
    """
    for name, value in settings.items():
        where = f"config.data.images.{name}"
        if name != "max_tiles":
            what = f"images of this model have no setting {name!r}{nearest(name, ['max_tiles'])}"
            raise InputError(what, where, "use max_tiles")
        if not 1 <= value <= MOST_TILES:
            raise InputError(f"{value} is out of range", where, f"give a number from 1 to {MOST_TILES}")
    tower = config.vision
    return InternVLProcessor(
        image_token=config.image_token_id,
        tile_side=tower.image_size,
        patch_side=tower.patch_size,
        max_tiles=settings.get("max_tiles", config.max_tiles),
        max_positions=config.max_positions,
        own_template=config.own_template,
    )
