"""The job that both trainers do: a model of random weights, and posts of MMKP's lengths; the same for both by its seed.

Imported by both sides, so it starts neither JAX's nor PyTorch's devices.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from mmkp_jax.data.forest import RowSize, Tree, tree_size
from mmkp_jax.families.qwen2_5_vl.config import Qwen2_5_VLConfig, config_from_hf
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor
from mmkp_jax.families.qwen2_5_vl.published import PUBLISHED

STRATEGIES = {"sft": "SFT", "cot": "Fine-tune-CoT", "dyncot": "Dynamic CoT"}

SIDES = (
    *((1200, 675), (680, 680), (900, 1200), (1080, 1080), (2048, 1536)),
    *((640, 360), (500, 281), (1536, 2048), (320, 568)),
)
"""Width and height of images as social media serve them."""

WORDS, KEYPHRASE_WORDS = (3.145, 0.548), (0.738, 0.573)
"""Mean and deviation of the logarithm of CMKP's words: of the texts, and of the keyphrases (5,370 posts of valid)."""

PROMPT, TOKENS_A_WORD, TOKENS_A_KEYPHRASE_WORD = 36, 1.25, 1.5
"""With these, CMKP's words come to the mean tokens that `benchmarks/packing.py` measures with Qwen's vocabulary: 69 of
text and prompt, 4.9 of an SFT target."""

COT_TOKENS, COT_SPREAD = 205, 40
"""Tokens of a CoT target: 157 words (Table 7 of the paper) at 1.3 tokens a word."""

STILL = 1e-12
"""Learning rate: an update costs what any other does, and no choice of Dynamic CoT changes while it is timed."""


class Size(NamedTuple):
    """A size of the job."""

    published: dict[str, Any]
    """The model's `config.json`."""
    posts: int
    per_row: tuple[int, ...]
    """Posts a row to try, on our side, besides a step for each post."""
    batches: tuple[int, ...]
    """Posts of a batch to try, on PyTorch's side."""
    multiple: int = 1
    """Tokens of a row are a multiple of this."""
    smaller: int = 1
    """Divides the sides of images, and the targets' tokens."""
    remat: bool = False
    together: bool = True
    """Whether the device holds both sides at once."""


def _published(vocab: int, decoder: dict[str, Any], tower: dict[str, Any]) -> dict[str, Any]:
    """The 3B's `config.json` with other sizes."""
    whole = PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"]
    tower = whole["vision_config"] | tower | {"out_hidden_size": decoder["hidden_size"]}
    return whole | decoder | {"vocab_size": vocab, "image_token_id": vocab - 64, "vision_config": tower}


_SMALL = _published(
    16_384,
    {
        "hidden_size": 384,
        "intermediate_size": 2_064,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    },
    {"depth": 8, "hidden_size": 240, "intermediate_size": 640, "num_heads": 3, "fullatt_block_indexes": [7]},
)
"""The 3B's proportions at 30 M parameters; a head has 64 and, in the tower, the 3B's 80."""

_TINY = _published(
    512,
    {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    },
    {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "fullatt_block_indexes": [1]},
)

SIZES = {
    "tiny": Size(_TINY, 4, per_row=(2,), batches=(1, 2), smaller=8),
    "small": Size(_SMALL, 8, per_row=(1, 2, 4), batches=(1, 2, 4)),
    "3b": Size(
        PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"],
        24,
        per_row=(6,),
        batches=(1, 4, 8),
        multiple=128,
        remat=True,
        together=False,
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """What both sides do."""

    size: str
    dtype: str
    """Of the computation; trained parameters and the optimizer are float32."""
    posts: int
    seed: int = 0

    @property
    def sizes(self) -> Size:
        """The job's size."""
        return SIZES[self.size]

    @property
    def config(self) -> Qwen2_5_VLConfig:
        """The model's config."""
        return config_from_hf(self.sizes.published)

    @property
    def processor(self) -> Qwen2_5_VLProcessor:
        """The processor of the model's images."""
        return Qwen2_5_VLProcessor(self.config.image_token_id, self.config.vision.window_side)

    def trees(self) -> list[Tree]:
        """The posts: real lengths, and random tokens and pixels."""
        rng, job = np.random.default_rng(self.seed), self.sizes
        config, processor = self.config, self.processor

        def draw(n: float) -> np.ndarray:
            return rng.integers(0, config.image_token_id - 64, max(2, round(n))).astype(np.int32)

        posts = []
        for _ in range(self.posts):
            words, of_keyphrases = rng.lognormal(*WORDS), rng.lognormal(*KEYPHRASE_WORDS)
            width, height = SIDES[rng.integers(len(SIDES))]
            layout = processor.layout(height // job.smaller, width // job.smaller)
            prompt = [draw(PROMPT / 2), processor.placeholder(layout), draw(PROMPT / 2 + TOKENS_A_WORD * words)]
            pixels = rng.integers(0, 256, (layout.slots[0], 588), np.uint8)
            cot = max(20.0, rng.normal(COT_TOKENS, COT_SPREAD)) / job.smaller
            sft = TOKENS_A_KEYPHRASE_WORD * of_keyphrases + 1
            posts.append(Tree(np.concatenate(prompt), draw(sft), draw(cot), (layout,), (pixels,)))
        return posts


ABOUT = (
    f"random weights, tokens and pixels; lengths as of CMKP's posts (a fixed number of tokens a word), images of usual "
    f"sizes, chains of thought of {COT_TOKENS} ± {COT_SPREAD} tokens; the tower frozen; AdamW"
)
"""The job in a sentence."""


def packed(tree: Tree, strategy: str) -> Tree:
    """The post with the targets that the strategy learns from."""
    sft = tree.sft if strategy != "cot" else tree.sft[:0]
    cot = tree.cot if strategy != "sft" else tree.cot[:0]
    return dataclasses.replace(tree, sft=sft, cot=cot)


def share_out(trees: Sequence[Tree], rows: int) -> list[list[int]]:
    """Posts by number in rows of about equal lengths: the longest first, each into the row with most room."""
    row_posts: list[list[int]] = [[] for _ in range(rows)]
    most = -(-len(trees) // rows)
    for post in sorted(range(len(trees)), key=lambda i: -len(trees[i].prompt) - len(trees[i].cot)):
        open_rows = [row for row in row_posts if len(row) < most]
        min(open_rows, key=lambda row: sum(len(trees[i].prompt) + len(trees[i].cot) for i in row)).append(post)
    return row_posts


def smallest(rows: Sequence[Sequence[Tree]], processor: Qwen2_5_VLProcessor, multiple: int = 1) -> RowSize:
    """The smallest rows that hold these, their tokens (and patches, by four) rounded up to a multiple."""
    sizes = [[tree_size(tree, processor).slots() for tree in row] for row in rows]

    def most(name: str, multiple: int = 1) -> int:
        return -(-max(sum(size[name] for size in row) for row in sizes) // multiple) * multiple

    images = {"patches": most("patches", 4 * multiple), "windows": most("windows")}
    return RowSize(most("tokens", multiple), most("labels"), max(map(len, rows)), images)


def longest_tree(trees: Sequence[Tree], processor: Qwen2_5_VLProcessor) -> int:
    """Tokens of the longest tree, rounded up to a multiple of 64."""
    return -(-max(tree_size(tree, processor).tokens for tree in trees) // 64) * 64


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Random float32 parameters by path: norms around 1, biases around 0, matrices that keep activations around 1."""

    def draw(numbered: tuple[int, str]) -> np.ndarray:
        number, path = numbered
        array = np.random.default_rng([seed, number]).standard_normal(shapes[path], np.float32)
        if path.endswith((".scale", ".bias")):
            return np.float32(path.endswith(".scale")) + np.float32(0.1) * array
        fan_in = np.prod(shapes[path][2:] if ".layers." in path or ".blocks." in path else shapes[path][1:])
        array *= np.float32(fan_in**-0.5)
        return array

    with ThreadPoolExecutor() as threads:
        return dict(zip(shapes, threads.map(draw, enumerate(shapes)), strict=True))
