"""Dynamic CoT as the paper writes it: one pass for the SFT loss, a choice, another pass on the chosen target.

The reference that tests hold the forest against and `benchmarks/forest.py` measures it against; training does not use
it. B rows, T tokens, S examples a row.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows
from mmkp_jax.data.processor import Processor
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.ops.cross_entropy import label_nll
from mmkp_jax.training.decisions import DECISIONS, Decision, Threshold, decide
from mmkp_jax.training.losses import Losses, example_losses


class Pair(NamedTuple):
    """The same trees three times: as short rows for the first pass, and with either target for the second.

    In `sft` and `cot` every token and label slot belongs to the same example, so that the chosen target can be picked
    slot by slot. Each is on the SFT branch there: a tree of the second pass has one branch only.
    """

    first: Forest
    sft: Forest
    cot: Forest
    has_cot_BS: np.ndarray


def pack_pair(
    rows: Sequence[Sequence[Tree]], first: RowSize, second: RowSize, processor: Processor, *, with_think: bool = False
) -> Pair:
    """Lays rows out for the two passes, in rows of size `first` and `second`.

    With `with_think` the first pass has the first label of the CoT target too, for decisions without the mode.

    Raises:
        ValueError: the trees of a row do not fit.
    """
    alone = [[dataclasses.replace(tree, cot=tree.cot[: int(with_think)]) for tree in trees] for trees in rows]
    has_cot_BS = np.zeros((len(rows), second.examples), bool)
    for b, trees in enumerate(rows):
        has_cot_BS[b, : len(trees)] = [len(tree.cot) > 0 for tree in trees]
    return Pair(
        pack_rows(alone, first, processor),
        _stretched(rows, [[tree.sft for tree in trees] for trees in rows], second, processor),
        _stretched(rows, [[tree.cot for tree in trees] for trees in rows], second, processor),
        has_cot_BS,
    )


def _stretched(
    rows: Sequence[Sequence[Tree]], targets: list[list[np.ndarray]], size: RowSize, processor: Processor
) -> Forest:
    """Each tree with its one target, in as many slots as the longer of its two; labels past the target weigh 0."""

    def room(tree: Tree) -> int:
        return max(len(tree.sft), len(tree.cot))

    stretched = [
        [
            dataclasses.replace(tree, sft=np.pad(target, (0, room(tree) - len(target))), cot=tree.cot[:0])
            for tree, target in zip(trees, of_row, strict=True)
        ]
        for trees, of_row in zip(rows, targets, strict=True)
    ]
    forest = pack_rows(stretched, size, processor)
    for b, (trees, of_row) in enumerate(zip(rows, targets, strict=True)):
        start = 0
        for tree, target in zip(trees, of_row, strict=True):
            forest.weight_BM[b, start + len(target) : start + room(tree)] = 0
            start += room(tree)
    return forest


def two_pass_loss(
    definition: Definition,
    params: Params,
    pair: Pair,
    gamma: jax.Array,
    *,
    dtype: jnp.dtype,
    share_features: bool = True,
    decision: Decision = DECISIONS["paper"],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The loss summed over posts; and each post's loss and choice, [B, S].

    With `share_features` the second pass takes the vision tower's features from the first, which is the best variant
    for a frozen tower.
    """
    examples = pair.has_cot_BS.shape[1]
    model = definition.bind(params)
    features_BPD = model.encode(pair.first.images, dtype)
    again_BPD = features_BPD if share_features else model.encode(pair.sft.images, dtype)

    def losses(forest: Forest, features_BPD: jax.Array) -> Losses:
        nll_BM = label_nll(model.decode(forest, features_BPD, dtype), model.head, forest.label_slot_BM, forest.label_BM)
        return example_losses(nll_BM, forest, examples)

    first = losses(pair.first, features_BPD)._replace(has_cot_BS=pair.has_cot_BS)
    on_cot_BS = decide(decision, first, Threshold(gamma)).on_cot_BS
    second = losses(choose(pair, on_cot_BS), again_BPD)
    return jnp.where(second.has_sft_BS, second.sft_BS, 0).sum(), (second.sft_BS, on_cot_BS)


def choose(pair: Pair, on_cot_BS: jax.Array) -> Forest:
    """The rows of the second pass, each example with its chosen target."""

    def pick(name: str, on_cot: jax.Array) -> jax.Array:
        return jnp.where(on_cot, getattr(pair.cot, name), getattr(pair.sft, name))

    def of(segment: jax.Array) -> jax.Array:
        return (segment > 0) & jnp.take_along_axis(on_cot_BS, jnp.maximum(segment - 1, 0), axis=1)

    on_cot_BT = of(pair.sft.segment_BT)
    on_cot_BM = of(jnp.take_along_axis(pair.sft.segment_BT, pair.sft.label_slot_BM, axis=1))
    return pair.sft._replace(
        token_BT=pick("token_BT", on_cot_BT),
        label_BM=pick("label_BM", on_cot_BM),
        weight_BM=pick("weight_BM", on_cot_BM),
    )
