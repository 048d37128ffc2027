"""Image files: found by the path that a post gives, read within limits, and identified if they are no images."""

import base64
import functools
import io
import os
import unicodedata
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.data.fields import quoted
from mmkp_jax.runtime.limits import IMAGE

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageError(ValueError):
    """An image that cannot be used; `reason` says why, without naming it, and `hint`, if not empty, what to do."""

    def __init__(self, reason: str, hint: str = ""):
        super().__init__(reason, hint)
        self.reason, self.hint = reason, hint

    def __str__(self) -> str:
        return self.reason


def image_path(root: str | Path, named: str) -> Path:
    """The image's file, which must be inside the folder `root`.

    The path may be absolute or a `file://` address: it is resolved first, then checked. A file whose name is in another
    normal form of Unicode (macOS decomposes accents) is found too.

    Raises:
        ImageError: the path leads out of the folder, by `..` or by a link, say; or there is no such file.
    """
    folder, relative = Path(root).resolve(), _without_scheme(named)
    if "\0" in relative:
        raise ImageError(f"the image path {quoted(named)} holds a NUL character")
    try:
        files = {_in_form(folder, relative, form) for form in (None, "NFC", "NFD")}
        resolved = [file.resolve() for file in sorted(files, key=lambda file: file != folder / relative)]
        inside = [file for file in resolved if file.is_relative_to(folder)]
        found = next((file for file in inside if file.is_file()), None)
        folders = [file for file in inside if file.is_dir()]
    except (OSError, ValueError, RuntimeError) as error:  # a cycle of links; a name that is too long or invalid
        reason = getattr(error, "strerror", None) or "it is no valid path, or a cycle of links"
        raise ImageError(f"the image {quoted(named)} cannot be found ({reason})") from None
    if found:
        return found
    if not inside:
        by_link = Path(os.path.normpath(folder / relative)).is_relative_to(folder)
        how = "leads out of the folder of images by a link" if by_link else "leaves the folder of images"
        raise ImageError(f"the image path {quoted(named)} {how}")
    if folders:
        raise ImageError(f"{quoted(named)} is a folder, not an image")
    other = _other_case(inside[0])
    raise ImageError(f"there is no image {quoted(named)}" + f", but {other!r}: case counts" * bool(other))


def read_image(file: Path) -> bytes:
    """The bytes of an image's file.

    Raises:
        ImageError: it is larger than `limits.IMAGE`.
        OSError: it cannot be read.
    """
    size, most = file.stat().st_size, IMAGE.bytes()
    if size > most:
        raise ImageError(f"the image's file has {size:,} bytes, more than {most:,} bytes", IMAGE.hint())
    return file.read_bytes()


def kind_of(data: bytes) -> str:
    """Name of the format of bytes that no image reader accepts (`an HTML page`); empty where unknown."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which `git lfs pull` replaces by the image"
    if b"/annex/objects/" in start:
        return "a git-annex pointer, which `git annex get` replaces by the image"
    if data[4:8] == b"ftyp":
        brands = data[8:64]
        known = any(each in brands for each in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"))
        return "an HEIC image, which is to be saved as JPEG" if known else "a video"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in start:
        return "an SVG drawing, which is to be saved as PNG"
    if start.startswith(b"%pdf"):
        return "a PDF document"
    return ""


def _without_scheme(named: str) -> str:
    if not named.lower().startswith("file:"):
        return named
    path = urllib.parse.urlsplit(named).path if "//" in named[:7] else named[5:]
    return urllib.parse.unquote(path)


def _in_form(folder: Path, relative: str, form: str | None) -> Path:
    return folder / (unicodedata.normalize(form, relative) if form else relative)


def _other_case(file: Path) -> str | None:
    """The name of a file in the same folder that differs in case alone."""
    try:
        return _by_folded(file.parent).get(_folded(file.name))
    except OSError:
        return None


@functools.lru_cache(maxsize=4)
def _by_folded(folder: Path) -> dict[str, str]:
    return {_folded(each.name): each.name for each in os.scandir(folder)}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def jpeg_url(image: "Image", quality: int) -> str:
    """An RGB image as the `data:` address of a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
