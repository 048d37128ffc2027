"""A small dataset on disk for tests, and the recipe that feeds it to the tiny model."""

from pathlib import Path

import numpy as np

from mmkp_jax.data.examples import Recipe
from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.posts import Post
from mmkp_jax.data.records import Split, open_split, write_dataset
from tests.data.test_images import random_image, saved
from tests.support.tiny import tiny_config, write_tokenizer
from tests.support.trees import processor_of

SIZE = RowSize(tokens=700, labels=260, examples=5, images={"patches": 260, "windows": 16})


def write_posts(folder: Path, count: int = 30, seed: int = 0) -> Split:
    """`count` posts: one in five without an image, one in three with a chain of thought."""
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    posts = []
    for i in range(count):
        name = None if i % 5 == 4 else f"{i}.png"
        if name:
            width, height = rng.integers(20, 150, 2).tolist()
            (images / name).write_bytes(saved(random_image(width, height, seed=i)))
        text = " ".join(["post", str(i), *rng.choice(["snow", "day", "news", "!"], rng.integers(1, 12))])
        cot = f"since it is about {i}" if i % 3 == 0 else None
        posts.append(Post(f"train-{i + 1}", text, name, (f"key {i}", "news")[: 1 + i % 2], cot, "f", i + 1))
    write_dataset(folder / "out", {"train": posts}, images, on_bad_row="error")
    return open_split(folder / "out", "train")


def tiny_recipe(folder: Path) -> Recipe:
    """The tiny tokenizer's template and the tiny model's geometry, for images of at most 16 image tokens."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    processor = processor_of(tiny_config(), min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)
    template = processor.template(AutoTokenizer.from_pretrained(folder))
    return Recipe(template, processor, max_text_tokens=40)
