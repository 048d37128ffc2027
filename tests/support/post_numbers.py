"""Posts as lists of their labels' NLLs, and what a walk over each post alone makes of them. Float64, no arrays.

B rows, M label slots, S examples a row.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import Tree
from mmkp_jax.training.losses import Losses

Post = tuple[list[float], list[float]]
"""NLLs of the labels of the SFT target, and of the CoT target; none where it is absent."""


def losses_of_numbers(rows: Sequence[Sequence[Post]]) -> Losses:
    """The numbers of these posts, whose targets begin with different tokens."""
    shape = len(rows), max(map(len, rows))
    fields = {name: np.zeros(shape) for name in Losses._fields}
    for b, row in enumerate(rows):
        for s, (sft, cot) in enumerate(row):
            for name, nll in (("sft", sft), ("cot", cot)):
                fields[f"{name}_BS"][b, s] = np.mean(nll) if nll else 0
                fields[f"has_{name}_BS"][b, s] = bool(nll)
                fields[f"{name}_labels_BS"][b, s] = len(nll)
            fields["has_mode_BS"][b, s] = bool(sft and cot)
            fields["think_BS"][b, s] = cot[0] if sft and cot else 0
            fields["post_BS"][b, s] = (b * shape[1] + s) * 7_919
    dtypes = {"has_sft_BS": bool, "has_cot_BS": bool, "has_mode_BS": bool, "post_BS": np.uint32}
    return Losses(*(jnp.asarray(array, dtypes.get(name, np.float32)) for name, array in fields.items()))


def naive_parts(sft: Sequence[float], cot: Sequence[float]) -> tuple[float, float, float]:
    """(L_kp, mean NLL of the chain after its first label, P(think)) of a post; without a chain, its SFT loss."""
    if not cot or not sft:
        return float(np.mean(sft or [0.0])), float(np.mean(cot or [0.0])), 0.0
    p_think = math.exp(-cot[0])
    first = math.exp(-sft[0]) / (1 - p_think)  # P(its first token | not thinking)
    return (
        float(np.mean([-math.log(first), *sft[1:]])),
        float(np.mean(cot[1:])) if cot[1:] else 0.0,
        p_think,
    )


def naive_losses(nll_BM: np.ndarray, rows: Sequence[Sequence[Tree]], examples: int) -> dict[str, np.ndarray]:
    """Most fields of `Losses`, by a walk over the trees in the order in which rows hold their labels."""
    shape = len(rows), examples
    found = {name: np.zeros(shape) for name in Losses._fields if name != "post_BS"}
    for b, trees in enumerate(rows):
        label = 0
        for s, tree in enumerate(trees):
            nll = {}
            for name, target in (("cot", tree.cot), ("sft", tree.sft)):
                nll[name] = nll_BM[b, label : label + len(target)].astype(np.float64)
                label += len(target)
                found[f"{name}_BS"][b, s] = nll[name].mean() if len(target) else 0
                found[f"has_{name}_BS"][b, s] = len(target) > 0
                found[f"{name}_labels_BS"][b, s] = len(target)
            if len(tree.sft) and len(tree.cot) and tree.sft[0] != tree.cot[0]:
                found["has_mode_BS"][b, s] = True
                found["think_BS"][b, s] = nll["cot"][0]
    return found
