"""Draws pocket's images: a flag of two colours before a grey background, or a landscape without one."""

import random

from PIL import Image, ImageDraw

from mmkp_jax.pocket.world import RGB_OF_COLOUR

SIDES = ((112, 112), (140, 112), (112, 140), (168, 112))
"""Width and height in pixels; whole merged patches of 28."""

_FINE = 3
"""Factor by which images are drawn larger, then shrunk, for smooth edges."""

_SEAM = 0.08
"""Width of the gap between a flag's colours, as a share of its side: mixed at the edge, two would look like a third."""

Colour = tuple[int, int, int]


def draw_emblem(first: str, second: str, rng: random.Random) -> Image.Image:
    """A flag of two colours, in any order, side by side or one above the other; its size, position and shades vary."""
    width, height = _canvas_size(rng)
    ground = rng.randint(90, 235)
    image = Image.new("RGB", (width, height), _grey(ground, rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 6)):  # a wall, a crowd: anything without a colour
        left, top = rng.randrange(width), rng.randrange(height)
        far = (left + rng.randint(20, width // 2), top + rng.randint(10, height // 2))
        draw.rectangle((left, top, *far), fill=_grey(ground + rng.randint(-30, 20), rng))
    side = rng.uniform(0.6, 0.85) * min(width, height)
    left = (width - side) / 2 + rng.uniform(-0.25, 0.25) * (width - side)
    top = (height - side) / 2 + rng.uniform(-0.25, 0.25) * (height - side)
    narrow = side * (1 - _SEAM) / 2
    across, down = (narrow, side) if rng.random() < 0.5 else (side, narrow)
    corners = ((left, top), (left + side - across, top + side - down))
    for (x, y), colour in zip(corners, rng.sample((first, second), 2), strict=True):
        draw.rectangle((x, y, x + across, y + down), fill=_shade(RGB_OF_COLOUR[colour], rng))
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
