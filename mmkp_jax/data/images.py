"""Pictures: from a file's bytes to the patches that the model takes. One geometry for training and inference."""

import io
import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mmkp_jax.data.geometry import Grid

PATCH, MERGE = 14, 2
"""Pixels along a patch's side; patches along a merged patch's side."""

MAX_DECODED_PIXELS = 89_478_485
"""A larger picture is not decoded: it may be a decompression bomb. (Pillow's own limit for a warning.)"""

MAX_ASPECT = 200

_ELSEWHERE = {"EPS", "WMF", "FITS", "BUFR", "GRIB", "HDF5", "MPEG", "FPX", "MIC"}
"""What Pillow hands to other programs or libraries, or cannot decode; and FITS, which holds measurements."""

_WITHOUT_MARK = {"IM", "IMT", "IPTC", "PCD", "SPIDER", "TGA"}
"""Files that begin with no mark of their kind, so that a reader may take others for them: they are tried last."""

Image.init()
FORMATS = tuple(sorted(Image.OPEN.keys() - _ELSEWHERE, key=lambda name: (name in _WITHOUT_MARK, name)))
"""What is decoded: all that Pillow reads itself."""

_ORIENTATION = 0x0112  # EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Said better by our own ImageError.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """A picture that cannot be used; `reason` says why, without naming it."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def smart_resize(height: int, width: int, *, min_pixels: int, max_pixels: int, factor: int = 28) -> tuple[int, int]:
    """The (height, width) in pixels that a picture is resized to: Qwen's rule, as transformers has it.

    Both are multiples of `factor`, their product lies between the limits where the shape allows it, and the shape is
    kept as nearly as can be.

    Raises:
        ImageError: the picture is longer than 200 times its breadth.
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


def check_aspect(height: int, width: int) -> None:
    """Refuses, with `ImageError`, a picture that is longer than 200 times its breadth."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ImageError(f"the image is {width} x {height} pixels, more than {MAX_ASPECT}:1")


def grid_of(height: int, width: int, *, min_pixels: int, max_pixels: int) -> Grid:
    """The grid, in patches down and across, of a picture of this size in pixels.

    Raises:
        ImageError: as `smart_resize`.
    """
    new_height, new_width = smart_resize(
        height, width, min_pixels=min_pixels, max_pixels=max_pixels, factor=PATCH * MERGE
    )
    return new_height // PATCH, new_width // PATCH


def decode(data: bytes) -> Image.Image:
    """The picture in a file's bytes, in RGB: upright (EXIF), on white where it lets through, the first frame.

    Raises:
        ImageError: no picture, a damaged one, or one of more than `MAX_DECODED_PIXELS`.
    """
    if not data:
        raise ImageError("the image file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)  # the header only
    except Image.DecompressionBombError:
        raise ImageError(f"the image has more than {MAX_DECODED_PIXELS:,} pixels") from None
    except Exception:  # Pillow's readers raise what they please on hostile bytes
        raise ImageError("the file is no image of a known kind") from None
    width, height = image.size
    if width * height > MAX_DECODED_PIXELS:
        raise ImageError(f"the image is {width:,} x {height:,} pixels, more than {MAX_DECODED_PIXELS:,} in all")
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"the image is truncated or damaged ({what})") from None


def _upright(image: Image.Image) -> Image.Image:
    # After load(): Pillow turns a TIFF itself as it loads it, and takes the mark away.
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF beside a whole picture
        orientation = None
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":  # 16 or 32 bits a value, which Pillow would clip at 255
        value_HW = np.nan_to_num(np.asarray(image, np.float64))
        if image.mode.startswith("I;16") or value_HW.max() > 255:
            value_HW = value_HW // 256
        elif image.mode == "F" and value_HW.max() <= 1:
            value_HW = value_HW * 255
        return Image.fromarray(np.clip(value_HW, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def patches_of(image: Image.Image, *, min_pixels: int, max_pixels: int) -> tuple[Grid, np.ndarray]:
    """Resizes an RGB picture (bicubic) and cuts it: its grid, and uint8 [P, 588], the RGB values of each patch.

    The patches come in the order of transformers' image processor, merged patches row by row; a patch's values channel
    by channel, neither normalised nor doubled along time.

    Raises:
        ImageError: as `smart_resize`.
    """
    h, w = grid_of(image.height, image.width, min_pixels=min_pixels, max_pixels=max_pixels)
    value_HWC = np.asarray(image.resize((w * PATCH, h * PATCH), Image.Resampling.BICUBIC))
    blocks = value_HWC.reshape(h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    return (h, w), blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(h * w, 3 * PATCH * PATCH)


def image_path(root: str | Path, relative: str) -> Path:
    """The picture's file, which must lie inside the folder `root`.

    Raises:
        ImageError: the path is absolute, climbs out with `..`, or a link leads out; or there is no such file.
    """
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise ImageError(f"the image path {relative!r} leaves the folder of images")
    folder = Path(root).resolve()
    try:
        file = (folder / path).resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise ImageError(f"the image {relative!r} cannot be found") from None
    if not file.is_relative_to(folder):
        raise ImageError(f"the image path {relative!r} leads out of the folder of images by a link")
    if not file.is_file():
        raise ImageError(f"there is no image {relative!r}")
    return file
