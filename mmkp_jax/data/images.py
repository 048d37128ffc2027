"""Images: from a file's bytes to upright RGB. A family's processor does the rest."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image

from mmkp_jax.data.image_files import ImageError, kind_of
from mmkp_jax.data.image_memory import BUDGET, decoding_bytes
from mmkp_jax.runtime.limits import IMAGE

MAX_DECODED_PIXELS = 89_478_485
"""A larger image is not decoded: it may be a decompression bomb. (Pillow warns at the same limit.)"""

MAX_ASPECT = 200

_ELSEWHERE = {"EPS", "WMF", "FITS", "BUFR", "GRIB", "HDF5", "MPEG", "FPX", "MIC"}
"""Formats that Pillow passes to other programs or libraries, or cannot decode; and FITS, which holds measurements."""

_WITHOUT_MARK = {"IM", "IMT", "IPTC", "PCD", "SPIDER", "TGA"}
"""Formats without a signature, whose readers may accept other files: they are tried last."""

Image.init()
FORMATS = tuple(sorted(Image.OPEN.keys() - _ELSEWHERE, key=lambda name: (name in _WITHOUT_MARK, name)))
"""The formats that are decoded: all that Pillow reads itself."""

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
_ASIDE = {5, 6, 7, 8}
"""Orientations that exchange width and height."""

_Out = TypeVar("_Out")

_BAND = 1 << 16
"""Pixels that are converted at a time."""

# Our own ImageError reports it better.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # for damaged EXIF in an intact image


def check_aspect(height: int, width: int) -> None:
    """Refuses, with `ImageError`, an image of an aspect above 200:1."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ImageError(f"the image is {width} x {height} pixels, more than {MAX_ASPECT}:1")


def decode(data: bytes, *, edge: int | None = None) -> Image.Image:
    """The image in a file's bytes, in RGB: upright (EXIF), on white where transparent, the first frame.

    Args:
        edge: pixels; a larger image is shrunk until neither side is longer.

    Raises:
        ImageError: it is no image, is damaged, has more than `MAX_DECODED_PIXELS`, or its decoding takes more memory
            than `limits.IMAGE`.
    """

    def shrunk(loaded: list[Image.Image]) -> Image.Image:
        image = _rgb(loaded)
        if edge is not None:
            image.thumbnail((edge, edge), Image.Resampling.BICUBIC)
        return image

    return _with_loaded(data, shrunk)


def upright_size(data: bytes) -> tuple[int, int]:
    """The (width, height) in pixels of `decode(data)`, without making it: the pixels are read and dropped.

    Raises:
        ImageError: as `decode`.
    """
    return _with_loaded(data, _size_of)


def with_image(data: bytes, use: Callable[[Image.Image], _Out]) -> _Out:
    """The result of `use` on `decode(data)`; the memory of decoding is free again afterwards.

    Raises:
        ImageError: as `decode`.
    """
    return _with_loaded(data, lambda loaded: use(_rgb(loaded)))


def _with_loaded(data: bytes, use: Callable[[list[Image.Image]], _Out]) -> _Out:
    """The result of `use` on the image as stored in its file, which it takes out of a list.

    Waits until the process has memory for it. A function, not a context manager: its images are freed before the memory
    counts as free.
    """
    image = _opened(data)
    turned = image.format != "PNG" and _orientation(image) in _UPRIGHT  # a PNG may have its EXIF after its pixels
    _check_memory(len(data) + decoding_bytes(image, turned=turned))
    needed = len(data) + decoding_bytes(image, turned=turned or image.format == "PNG")
    loaded = [image]
    del image
    with BUDGET.holding(needed), _damage_in_one_line():
        loaded[0].load()
        if loaded[0].format == "PNG" and _orientation(loaded[0]) in _UPRIGHT:
            _check_memory(needed)
        return use(loaded)


def _rgb(loaded: list[Image.Image]) -> Image.Image:
    image = loaded.pop()
    image = _upright(image)  # each step drops the image before it: never more than two are held
    image = _in_bytes(image)
    return _to_rgb(image)


def _size_of(loaded: list[Image.Image]) -> tuple[int, int]:
    image = loaded.pop()
    _to_rgb(_in_bytes(image.crop((0, 0, 1, 1))))  # a mode that cannot be converted is found here
    width, height = image.size
    return (height, width) if _orientation(image) in _ASIDE else (width, height)


def _opened(data: bytes) -> Image.Image:
    """The image, of which only the header is read."""
    if not data:
        raise ImageError("the image file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"the image has more than {MAX_DECODED_PIXELS:,} pixels") from None
    except Exception:  # Pillow's readers raise any error on hostile bytes
        kind = kind_of(data)
        raise ImageError("the file is no image of a known kind" + f", but {kind}" * bool(kind)) from None
    width, height = image.size
    if width * height > MAX_DECODED_PIXELS:
        raise ImageError(f"the image is {width:,} x {height:,} pixels, more than {MAX_DECODED_PIXELS:,} in all")
    return image


def _check_memory(needed: int) -> None:
    if needed > IMAGE.bytes():
        raise ImageError(IMAGE.message(needed), IMAGE.hint())


@contextlib.contextmanager
def _damage_in_one_line() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"the image is truncated or damaged ({what})") from None


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF in an intact image
        return None


def _upright(image: Image.Image) -> Image.Image:
    # After load(): Pillow turns a TIFF itself as it loads it, and removes the tag.
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    opaque = Image.new("RGB", image.size)
    for box in _bands(image):
        band = image.crop(box).convert("RGBA")
        opaque.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), box)
    return opaque


def _in_bytes(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits a value in 8 bits, scaled where Pillow would clip at 255; others unchanged."""
    if image.mode[0] not in "IF":
        return image
    most = max(float(_values(image, box).max()) for box in _bands(image))
    grey = Image.new("L", image.size)
    for box in _bands(image):
        value_HW = _values(image, box)
        if image.mode.startswith("I;16") or most > 255:
            value_HW = value_HW // 256
        elif image.mode == "F" and most <= 1:
            value_HW = value_HW * 255
        grey.paste(Image.fromarray(np.clip(value_HW, 0, 255).astype(np.uint8)), box)
    return grey


def _values(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.nan_to_num(np.asarray(image.crop(box), np.float64))


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of whole rows that cover the image, so that intermediate arrays are small."""
    width, height = image.size
    rows = max(1, _BAND // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))
