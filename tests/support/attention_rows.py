"""Rows of trees and of images, and the errors of an attention against the dense one, for kernels by intervals.

float32; bound 1e-5 of the largest value, where about 7e-7 is seen. Padding must be finite and is read by nobody, so
its outputs get no gradient here either.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import COT, SFT, TRUNK
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, random_tree

BOUND = 1e-5
CONFIG = tiny_config()


def runs(*rows: list[tuple[int, ...]], slots: int) -> np.ndarray:
    """Rows of (value, count) runs, 0 behind them."""
    values = [np.repeat(*np.asarray(row, np.int32).reshape(-1, 2).T) for row in rows]
    return np.stack([np.pad(row, (0, slots - len(row))) for row in values])


def packed(*rows, spare: int) -> tuple[np.ndarray, np.ndarray]:
    forest = forest_of(rows, CONFIG, spare)
    return forest.segment_BT, forest.branch_BT


def tree(seed: int, **sizes):
    return random_tree(seed, CONFIG, **sizes)


FORESTS = {
    "several posts, both branches, padding": packed(
        [tree(0, sft=9, cot=30), tree(1, sft=50, cot=40, text=60), tree(2, sft=5, cot=8)],
        [tree(3, sft=4, cot=60), tree(4, sft=1, cot=1)],
        spare=17,
    ),
    "no SFT tokens": packed([tree(0, sft=0, cot=30), tree(1, sft=0, cot=70)], [tree(2, sft=0)], spare=3),
    "no CoT tokens": packed([tree(0, cot=0, sft=30), tree(1, cot=0)], [tree(2, cot=0)], spare=3),
    "mostly SFT tokens, several blocks": packed(
        [tree(0, sft=500, cot=90), tree(1, sft=450, cot=40)], [tree(2, sft=3, cot=700), tree(3, sft=150)], spare=1
    ),
    "nothing but padding, and a tree of one token": packed([], [tree(0, grids=(), text=0, sft=1, cot=0)], spare=2),
    "whole blocks": (
        runs([1, 100, 1, 40, 1, 20, 2, 96], [1, 256], slots=256),
        runs([TRUNK, 100, COT, 40, SFT, 20, TRUNK, 96], [TRUNK, 30, COT, 150, SFT, 76], slots=256),
    ),
    "branches without a trunk": (runs([1, 30, 2, 9], slots=40), runs([COT, 12, SFT, 18, SFT, 9], slots=40)),
}
IMAGES = {
    "several images, padding": runs([1, 24, 2, 180, 3, 40], [1, 96], slots=300),
    "several blocks": runs([1, 700, 2, 500, 3, 64], slots=1400),
    "whole blocks": runs([1, 64, 2, 64], [1, 128], slots=128),
}


def errors(attend, dense, here_BT: np.ndarray, heads: tuple[int, int], width: int) -> list[float]:
    """Errors of the output and of each gradient, relative to the largest value of the reference."""
    N, K = heads
    rng = np.random.default_rng(width)
    q, k, v, g = (rng.standard_normal((*here_BT.shape, n, width), np.float32) for n in (N, K, K, N))
    here = here_BT[..., None, None]

    def run(attend):
        def loss(q, k, v):
            out = attend(q, k, v)
            return jnp.sum(out * g * here), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        assert all(np.isfinite(x).all() for x in (out, *gradients))
        return out * here, *gradients

    pairs = zip(run(attend), run(dense), strict=True)
    return [float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6)) for ours, theirs in pairs]
