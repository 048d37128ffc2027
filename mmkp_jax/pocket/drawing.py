"""Draws pocket's images: an emblem on a grey background, or a landscape without one."""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from mmkp_jax.pocket.world import RGB_OF_COLOUR

SIDES = ((112, 112), (140, 112), (112, 140), (168, 112))
"""Width and height in pixels; whole merged patches of 28."""

_FINE = 3
"""Factor by which images are drawn larger, then shrunk, for smooth edges."""

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def draw_emblem(shape: str, colour: str, rng: random.Random) -> Image.Image:
    """An emblem of a given shape and colour; its size, position and shade, and the grey background, vary."""
    width, height = _canvas_size(rng)
    ground = rng.randint(90, 235)
    image = Image.new("RGB", (width, height), _grey(ground, rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 6)):  # a wall, a crowd: anything without a colour
        left, top = rng.randrange(width), rng.randrange(height)
        far = (left + rng.randint(20, width // 2), top + rng.randint(10, height // 2))
        draw.rectangle((left, top, *far), fill=_grey(ground + rng.randint(-30, 20), rng))
    side = rng.uniform(0.55, 0.8) * min(width, height)
    left = (width - side) / 2 + rng.uniform(-0.25, 0.25) * (width - side)
    top = (height - side) / 2 + rng.uniform(-0.25, 0.25) * (height - side)
    mask = Image.new("L", image.size)
    SHAPES[shape](ImageDraw.Draw(mask), (left, top, left + side, top + side))
    image.paste(_shade(RGB_OF_COLOUR[colour], rng), mask=mask)
    return _shrink(image)


def draw_scene(rng: random.Random) -> Image.Image:
    """A landscape, which says nothing about the post."""
    width, height = _canvas_size(rng)
    image = Image.new("RGB", (width, height), (rng.randint(150, 205), rng.randint(190, 225), rng.randint(220, 250)))
    draw = ImageDraw.Draw(image)
    horizon = rng.uniform(0.45, 0.75) * height
    for _ in range(rng.randint(1, 3)):  # hills
        middle, half = rng.uniform(0, width), rng.uniform(0.3, 0.6) * width
        top = horizon - rng.uniform(0.1, 0.35) * height
        draw.ellipse((middle - half, top, middle + half, 2 * horizon - top), fill=_shade((120, 140, 120), rng))
    draw.rectangle((0, horizon, width, height), fill=_shade((130, 160, 100), rng))
    for _ in range(rng.randint(0, 4)):  # houses
        left, side = rng.uniform(0, width), rng.uniform(0.08, 0.18) * height
        draw.rectangle((left, horizon - side, left + side, horizon + side / 2), fill=_shade((170, 140, 120), rng))
    return _shrink(image)


def _circle(draw: ImageDraw.ImageDraw, box: Box) -> None:
    draw.ellipse(box, fill=255)


def _ring(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _circle(draw, box)
    _hole(draw, box, 0.22, 0.22, 0.78, 0.78)


def _moon(draw: ImageDraw.ImageDraw, box: Box) -> None:
    _circle(draw, box)
    _hole(draw, box, 0.36, 0.02, 1.32, 0.98)


def _hole(draw: ImageDraw.ImageDraw, box: Box, *part: float) -> None:
    left, top, right, _ = box
    side = right - left
    draw.ellipse(tuple(start + side * share for start, share in zip((left, top) * 2, part, strict=True)), fill=0)


def _polygon(*points: tuple[float, float]) -> Callable[[ImageDraw.ImageDraw, Box], None]:
    def draw_polygon(draw: ImageDraw.ImageDraw, box: Box) -> None:
        left, top, right, bottom = box
        draw.polygon([(left + x * (right - left), top + y * (bottom - top)) for x, y in points], fill=255)

    return draw_polygon


def _star_points() -> list[tuple[float, float]]:
    turns = [(math.pi * i / 5, 0.5 if i % 2 == 0 else 0.2) for i in range(10)]
    return [(0.5 + radius * math.sin(turn), 0.5 - radius * math.cos(turn)) for turn, radius in turns]


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, Box], None]] = {
    "star": _polygon(*_star_points()),
    "triangle": _polygon((0.5, 0), (1, 0.95), (0, 0.95)),
    "ring": _ring,
    "cross": _polygon(
        (0.34, 0), (0.66, 0), (0.66, 0.34), (1, 0.34), (1, 0.66), (0.66, 0.66),
        (0.66, 1), (0.34, 1), (0.34, 0.66), (0, 0.66), (0, 0.34), (0.34, 0.34),
    ),
    "square": _polygon((0, 0), (1, 0), (1, 1), (0, 1)),
    "moon": _moon,
}  # fmt: skip


def _canvas_size(rng: random.Random) -> tuple[int, int]:
    width, height = rng.choice(SIDES)
    return width * _FINE, height * _FINE


def _shrink(image: Image.Image) -> Image.Image:
    return image.resize((image.width // _FINE, image.height // _FINE), Image.Resampling.BOX)


def _grey(level: int, rng: random.Random) -> Colour:
    return tuple(max(0, min(255, level + rng.randint(-4, 4))) for _ in range(3))


def _shade(colour: Colour, rng: random.Random) -> Colour:
    light = rng.uniform(0.88, 1.06)
    return tuple(min(255, round(light * part)) for part in colour)
