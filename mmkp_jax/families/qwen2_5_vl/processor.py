"""Qwen2.5-VL's images: resized, cut into patches, arranged in windows, and merged four by four into image tokens.

B rows, T token slots, P patch slots, C channels x height x width of a patch, W window slots.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image

from mmkp_jax.data.forest import dtype_and_shape
from mmkp_jax.data.images import MAX_ASPECT, check_aspect
from mmkp_jax.data.processor import Layout
from mmkp_jax.data.prompts import Template, read_template
from mmkp_jax.errors import InputError, nearest
from mmkp_jax.families.qwen2_5_vl.geometry import Grid, mrope_positions, patch_layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig

PATCH, MERGE = 14, 2
"""Pixels along a patch's side; patches along a merged patch's side."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of RGB, as fractions of 255, that the published preprocessor normalises with."""

SETTINGS = {"min_pixels": 3_136, "max_pixels": 451_584}
"""Pixels of a resized image, least (one of 56 x 56) and most (576 image tokens), where a config gives none."""

PATCHES_A_TOKEN, WINDOWS_A_TOKEN = 45 / 16, 13 / 256
"""Default slots of a row for each of its tokens: CMKP's images and texts fill these evenly."""


class Images(NamedTuple):
    """Packed images. Slots that hold nothing are padding: image 0."""

    merged_BT: np.ndarray
    """int32: the row's merged patch of an image token; -1 for text."""
    patch_BPC: np.ndarray
    """uint8: RGB values of a patch, channel by channel, in window order (`geometry.PatchLayout`)."""
    image_BP: np.ndarray
    """int32: which image of the row a patch belongs to, from 1; 0 is padding."""
    patch_position_BP2: np.ndarray
    """int32: (row, column) of the patch in its image."""
    window_BW: np.ndarray
    """int32: patches of each window; the row's patches fill its windows in order."""


@dataclasses.dataclass(frozen=True)
class Qwen2_5_VLProcessor:
    """Preprocessing of images for a model of this family (`data.processor.Processor`)."""

    image_token: int
    window_side: int = 4
    """Merged patches along a window's side."""
    min_pixels: int = SETTINGS["min_pixels"]
    """Pixels of a resized image at least."""
    max_pixels: int = SETTINGS["max_pixels"]

    slots: ClassVar[tuple[str, ...]] = ("patches", "windows")
    values: ClassVar[str] = "patch_BPC"
    axes: ClassVar[int] = 3

    @property
    def fingerprint(self) -> str:
        """Hash of everything that layouts and pixels depend on, except the images."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def settings(self) -> dict[str, int]:
        """The settings of `config.data.images`, with their values."""
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def pixel_limit(self) -> tuple[str, int]:
        """The setting that limits an image's pixels, and its value."""
        return "max_pixels", self.max_pixels

    def default_slots(self, tokens: int) -> dict[str, int]:
        """Slots of each kind for a row of `tokens` tokens."""
        patches = MERGE**2 * math.ceil(tokens * PATCHES_A_TOKEN / MERGE**2)
        return {"patches": patches, "windows": math.ceil(tokens * WINDOWS_A_TOKEN)}

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The tokenizer's chat template, which writes one image token for each image."""
        return read_template(tokenizer, image_token=self.image_token)

    def layout(self, height: int, width: int) -> Layout:
        """What an image of this size in pixels becomes.

        Raises:
            ImageError: its aspect is above 200:1.
        """
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        new_height, new_width = smart_resize(height, width, **limits, factor=PATCH * MERGE)
        return self.layout_of((new_height // PATCH, new_width // PATCH))

    def layout_of(self, grid: Grid) -> Layout:
        """The layout of a grid of patches, down and across.

        Raises:
            ValueError: a side is not a positive multiple of the merge side.
        """
        laid = patch_layout(grid, window_side=self.window_side, merge=MERGE)
        return Layout(len(laid.merged_M), (len(laid.source_P), len(laid.window_length_W)), tuple(grid))

    def largest(self) -> Layout:
        """A layout of as many patches as `max_pixels` holds, with the windows of images of usual shapes."""
        patches = -(-(self.max_pixels // PATCH**2) // 8) * 8
        windows = math.ceil(patches * WINDOWS_A_TOKEN / PATCHES_A_TOKEN)
        return Layout(patches // MERGE**2, (patches, windows), ())

    @property
    def longest_image(self) -> int:
        """Most patches of an image of any shape.

        That is more than `max_pixels` holds where a side is held at one merged patch, and where `smart_resize` rounds
        both sides up to reach `min_pixels`.
        """
        most, least = (pixels / (PATCH * MERGE) ** 2 for pixels in (self.max_pixels, self.min_pixels))
        long, rounded_up = math.sqrt(MAX_ASPECT * most), least + math.sqrt(least) * (math.sqrt(MAX_ASPECT) + 1) + 1
        return MERGE**2 * math.floor(max(most, long, rounded_up))

    def placeholder(self, layout: Layout) -> np.ndarray:
        """A run of the image token, one for each merged patch."""
        return np.full(layout.tokens, self.image_token, np.int32)

    def pixels(self, image: Image.Image, layout: Layout) -> np.ndarray:
        """The image resized (bicubic) and cut: uint8 [P, 588], the RGB values of each patch.

        The patches are in the order of transformers' image processor, merged patches row by row; a patch's values are
        channel by channel, neither normalised nor doubled along time.
        """
        h, w = layout.shape
        value_HWC = np.asarray(image.resize((w * PATCH, h * PATCH), Image.Resampling.BICUBIC))
        blocks = value_HWC.reshape(h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
        return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(h * w, 3 * PATCH * PATCH)

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """M-RoPE positions of a prompt, int32 [T, 3] of (time, row, column).

        Raises:
            ValueError: the image tokens do not match `layouts`.
        """
        grids = [layout.shape for layout in layouts]
        return mrope_positions(prompt_T, grids, image_token=self.image_token, merge=MERGE)[0]

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> Images:
        """Rows without images.

        Raises:
            ValueError: a row's patches are not a multiple of a merged patch, or there are no windows for them.
        """
        P = slots["patches"]
        if P % MERGE**2:
            raise ValueError(f"{P} patch slots of a row are no multiple of {MERGE**2}, a merged patch")
        if P and not slots["windows"]:
            raise ValueError(f"rows of {P:,} patches have no window to put them into")
        return Images(
            merged_BT=np.full((rows, tokens), -1, np.int32),
            patch_BPC=np.zeros((rows, P, 3 * PATCH * PATCH), np.uint8),
            image_BP=np.zeros((rows, P), np.int32),
            patch_position_BP2=np.zeros((rows, P, 2), np.int32),
            window_BW=np.zeros((rows, slots["windows"]), np.int32),
        )

    def lay(
        self, row: Images, layout: Layout, pixels: np.ndarray | None, *, number: int, token: int, starts: Sequence[int]
    ) -> None:
        """Writes one image into views of a row, its patches in window order; without `pixels`, all but their values.

        Raises:
            ValueError: the pixels do not match the layout.
        """
        patches, values = layout.slots[0], row.patch_BPC.shape[-1]
        if pixels is not None and pixels.shape != (patches, values):
            what = f"not [{patches}, {values}] for its grid of {' x '.join(map(str, layout.shape))}"
            raise ValueError(f"image {number} is {dtype_and_shape(pixels)}, {what}")
        laid = patch_layout(layout.shape, window_side=self.window_side, merge=MERGE)
        patch, window = starts
        here = slice(patch, patch + patches)
        if pixels is not None:
            row.patch_BPC[here] = pixels[laid.source_P]
        row.image_BP[here] = number
        row.patch_position_BP2[here] = laid.position_P2
        row.window_BW[window : window + len(laid.window_length_W)] = laid.window_length_W
        row.merged_BT[token : token + layout.tokens] = patch // MERGE**2 + laid.merged_M

    def filled(self, images: Images) -> dict[str, Any]:
        """Masks of the filled slots of each kind."""
        return {"patches": images.image_BP > 0, "windows": images.window_BW > 0}

    def rgb(self, row: Images) -> list[np.ndarray]:
        """The images of a row as they were resized, uint8 [height, width, 3] each."""
        return [_put_together(row, number) for number in range(1, int(row.image_BP.max(initial=0)) + 1)]

    def work(self, images: Images, segment_BT: np.ndarray) -> dict[str, float]:
        """Patches, image tokens, and pairs of patches of one image and of one window."""
        P = images.image_BP.shape[-1]
        counts = [np.bincount(image_P, minlength=1)[1:] for image_P in images.image_BP.reshape(-1, P)] if P else []
        patch_N = np.concatenate([np.zeros(0, np.int64), *counts])
        merged = int(np.count_nonzero(np.asarray(images.merged_BT) >= 0))
        return _work(patch_N.sum(), merged, _squares(patch_N), _squares(images.window_BW))

    def work_of_posts(self, slots_NX: np.ndarray, token_N: np.ndarray) -> dict[str, float]:
        """The quantities of `work`; a post's patches count as spread evenly over its windows."""
        patch_N, window_N = np.asarray(slots_NX, np.float64).T
        in_windows = float(np.sum(np.square(patch_N) / np.maximum(window_N, 1)))
        return _work(patch_N.sum(), patch_N.sum() / MERGE**2, _squares(patch_N), in_windows)

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """The quantities of `work` if all patches of a row, and all slots of each window, see each other."""
        patches, window = slots["patches"], (self.window_side * MERGE) ** 2
        return _work(patches, patches / MERGE**2, patches**2, slots["windows"] * window**2)


def processor_of(config: "Qwen2_5_VLConfig", settings: Mapping[str, int]) -> Qwen2_5_VLProcessor:
    """The processor of a model, with a config's settings of images.

    Raises:
        InputError: a setting is unknown or out of range, or the two contradict each other.
    """
    for name, value in settings.items():
        if name not in SETTINGS:
            what = f"images of this model have no setting {name!r}{nearest(name, SETTINGS)}"
            raise InputError(what, f"config.data.images.{name}", f"use {', '.join(SETTINGS)}")
        if value < 1:
            raise InputError(f"{value} is out of range", f"config.data.images.{name}", "give a number from 1 on")
    limits = SETTINGS | settings
    if limits["min_pixels"] > limits["max_pixels"]:
        what = f"min_pixels is {limits['min_pixels']:,} and max_pixels is {limits['max_pixels']:,}"
        raise InputError(what, "config.data.images", "give a smaller min_pixels")
    return Qwen2_5_VLProcessor(config.image_token_id, config.vision.window_side, **limits)


def smart_resize(height: int, width: int, *, min_pixels: int, max_pixels: int, factor: int = 28) -> tuple[int, int]:
    """The (height, width) in pixels that an image is resized to: Qwen's rule, as in transformers.

    Both are multiples of `factor`, their product is between the limits where the shape allows it, and the aspect
    is kept as closely as possible.

    Raises:
        ImageError: the image's aspect is above 200:1.
    """
    check_aspect(height, width)
    new_height, new_width = (round(side / factor) * factor for side in (height, width))
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height, new_width = (max(factor, math.floor(s / shrink / factor) * factor) for s in (height, width))
    elif new_height * new_width < min_pixels:
        stretch = math.sqrt(min_pixels / (height * width))
        new_height, new_width = (math.ceil(s * stretch / factor) * factor for s in (height, width))
    return new_height, new_width


def _put_together(row: Images, number: int) -> np.ndarray:
    is_its_P = row.image_BP == number
    position_P2, value_PC = row.patch_position_BP2[is_its_P], row.patch_BPC[is_its_P]
    rows, columns = position_P2.max(axis=0) + 1
    grid = np.zeros((rows, columns, 3, PATCH, PATCH), np.uint8)
    grid[position_P2[:, 0], position_P2[:, 1]] = value_PC.reshape(-1, 3, PATCH, PATCH)
    return grid.transpose(0, 3, 1, 4, 2).reshape(rows * PATCH, columns * PATCH, 3)


def _squares(count: Any) -> float:
    return float(np.square(count, dtype=np.float64).sum())


def _work(patches: float, merged: float, image_pairs: float, window_pairs: float) -> dict[str, float]:
    return {
        "patches": float(patches),
        "merged": float(merged),
        "image_pairs": float(image_pairs),
        "window_pairs": float(window_pairs),
    }
