"""Renders the templates in this folder as HTML; all values are escaped."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from mmkp_jax.data.image_files import jpeg_url
from mmkp_jax.pages import histogram, svg
from mmkp_jax.pages.tables import plain


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(jpeg=jpeg, plain=plain)
    environment.globals.update(
        chart_width=histogram.WIDTH,
        chart_height=histogram.HEIGHT,
        width=svg.WIDTH,
        height=svg.HEIGHT,
        colours=svg.COLOURS,
    )
    return environment


def render(template: str, **values: Any) -> str:
    """The template rendered with the values."""
    return _environment().get_template(template).render(values)


def jpeg(image_HWC: np.ndarray) -> str:
    """A uint8 RGB image as a `data:` URL."""
    return jpeg_url(Image.fromarray(image_HWC), quality=85)
