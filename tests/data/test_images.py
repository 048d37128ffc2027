"""An image becomes the patches of transformers' own image processor, whatever it was saved as."""

import io
import itertools
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmkp_jax.data.image_files import ImageError, image_path
from mmkp_jax.data.images import FORMATS, decode
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor, smart_resize

LIMITS = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 64}
PROCESSOR = Qwen2_5_VLProcessor(image_token=0, **LIMITS)
SIZES = [(1, 1), (5, 900), (640, 360), (281, 500), (68, 68), (600, 337), (27, 29), (13, 300), (224, 224), (333, 777)]
KINDS = {
    "RGB": ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "MPO"],
    "L": ["JPEG", "PNG", "GIF", "TIFF"],
    "CMYK": ["JPEG", "TIFF"],
    "YCbCr": ["JPEG", "TIFF"],
    "LAB": ["TIFF"],
    "RGBA": ["PNG", "WEBP", "TIFF", "AVIF"],
    "LA": ["PNG", "TIFF"],
    "P": ["PNG", "GIF", "BMP", "TIFF"],
    "PA": ["TIFF"],
    "1": ["PNG", "BMP", "TIFF"],
}
"""The modes in which Pillow opens images of 8 bits and less, and formats that keep them."""

RARER = {
    **dict.fromkeys(("DDS", "DIB", "ICNS", "ICO", "IM", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA"), "RGB"),
    **{"BLP": "P", "MSP": "1", "SPIDER": "F", "XBM": "1"},
}
"""Other formats without loss, each with a mode that it keeps."""


def random_image(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in another mode, half transparent on its left side where the mode has an alpha channel."""
    if mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    changed = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    if mode.endswith("A"):
        alpha = Image.new("L", image.size, 255)
        alpha.paste(100, (0, 0, image.width // 2, image.height))
        changed.putalpha(alpha)
    return changed


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def processor_patches(image: Image.Image) -> tuple[tuple[int, int], np.ndarray]:
    """The grid and, in steps of uint8, the values that transformers makes, before it normalises."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
    made = Qwen2VLImageProcessorPil(size=size)(images=[image], do_normalize=False, return_tensors="np")
    values = made["pixel_values"].reshape(-1, 3, 2, 14, 14)
    np.testing.assert_array_equal(values[:, :, 0], values[:, :, 1])
    return tuple(made["image_grid_thw"][0, 1:].tolist()), values[:, :, 0].reshape(len(values), 588) * 255


@pytest.mark.parametrize(("mode", "kind"), [(mode, kind) for mode, kinds in KINDS.items() for kind in kinds])
def test_patches_are_those_of_the_processor_for_any_size_and_mode(mode, kind):
    for seed, (width, height) in enumerate(SIZES):  # 300 images in all
        data = saved(in_mode(random_image(width, height, seed), mode), kind)
        image = decode(data)
        layout = PROCESSOR.layout(image.height, image.width)
        patches = PROCESSOR.pixels(image, layout)
        expected_grid, expected = processor_patches(Image.open(io.BytesIO(data)))
        assert layout.shape == expected_grid and image.size == (width, height)
        assert patches.dtype == np.uint8
        np.testing.assert_allclose(patches, expected, atol=1, err_msg=f"{width} x {height}")


def test_smart_resize_is_transformers_own():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as published

    for height, width in np.random.default_rng(0).integers(1, 3000, (400, 2)).tolist():
        if max(height, width) <= 200 * min(height, width):
            assert smart_resize(height, width, **LIMITS) == published(height, width, 28, *LIMITS.values())


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize(("kind", "mode"), [each for each in RARER.items() if each[0] in Image.SAVE])
def test_rarer_formats_are_decoded_as_they_were_saved(kind, mode):
    image = random_image(1024, 1024) if kind == "ICNS" else random_image(48, 48)
    decoded = decode(saved(image.convert(mode), kind))
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image.convert(mode).convert("RGB")))


def test_every_format_that_pillow_reads_itself_and_can_write_is_tested():
    assert set(FORMATS) & set(Image.SAVE) <= {*RARER, *itertools.chain(*KINDS.values())}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    grey = random_image(40, 30).convert("L")
    decoded = decode(saved(sixteen_bits(grey), kind))
    np.testing.assert_array_equal(np.asarray(decoded)[..., 0], np.asarray(grey))


@pytest.mark.parametrize("whole", [1, 255])
def test_floats_are_read_from_0_to_1_or_to_255(whole):
    grey = np.asarray(random_image(40, 30).convert("L"))
    value = grey.astype(np.float32) * np.float32(whole / 255)
    value[0, 0] = np.nan
    decoded = np.asarray(decode(saved(Image.fromarray(value), "TIFF")), int)[..., 0]
    assert decoded[0, 0] == 0
    np.testing.assert_allclose(decoded[1:], grey[1:], atol=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_once(kind, orientation):
    upright = Image.new("RGB", (64, 32), "black")
    upright.paste("red", (0, 0, 32, 16))
    undo = {
        1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270",
    }[orientation]  # fmt: skip
    stored = upright.transpose(Image.Transpose[undo]) if undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    decoded = decode(saved(stored, kind, exif=exif, **options))
    assert decoded.size == (64, 32)
    np.testing.assert_allclose(np.asarray(decoded, int)[8::16, 8::16], np.asarray(upright, int)[8::16, 8::16], atol=9)


def test_transparency_shows_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode(saved(clear)).getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for kind in ("GIF", "PNG"):
        assert decode(saved(palette, kind, transparency=1)).getpixel((3, 3)) == (255, 255, 255)
    for mode, colour in (("L", 7), ("RGB", (255, 0, 0))):  # one colour of an image without alpha channel
        assert decode(saved(Image.new(mode, (8, 8), colour), transparency=colour)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_of_several_frames_the_first_is_taken(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in ("MPO", "AVIF") else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    red, green, blue = decode(data).getpixel((5, 5))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html><body>404 Not Found</body></html>", "no image of a known kind"),
        (saved(random_image(200, 200), "JPEG")[:900], "truncated"),
        (saved(random_image(200, 200), "PNG")[:900], "truncated"),
        (saved(random_image(200, 200), "WEBP")[:200], "truncated|no image"),
        (saved(random_image(200, 200), "GIF")[:3000], "truncated"),
        (saved(random_image(20, 20), "EPS"), "no image of a known kind"),
        (saved(random_image(20, 20), "PDF"), "no image of a known kind"),
        (saved(Image.new("1", (12_000, 9_000))), "12,000 x 9,000"),
        (saved(Image.new("1", (20_000, 20_000))), "pixels"),
    ],
)
def test_bad_bytes_are_distinguished(data, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=reason):
            decode(data)


def test_a_strip_is_refused():
    with pytest.raises(ImageError, match="200:1"):
        smart_resize(20, 4020, **LIMITS)
    assert smart_resize(20, 4000, **LIMITS)


def test_paths_stay_inside_the_folder(tmp_path):
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "in.jpg").symlink_to(root / "sub" / "a.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    assert image_path(root, "sub/a.jpg").read_bytes() == b"x"
    assert image_path(root, "in.jpg")
    for bad in ("../secret.jpg", "sub/../../secret.jpg", str(tmp_path / "secret.jpg"), "out.jpg", "", "a\0b"):
        with pytest.raises(ImageError):
            image_path(root, bad)
    for absent in ("none.jpg", "sub", "loop.jpg"):
        with pytest.raises(ImageError):
            image_path(root, absent)
