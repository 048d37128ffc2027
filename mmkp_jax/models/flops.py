"""Floating-point operations of a model's matrix products, counted from its shapes and from what rows hold.

A product of [m, k] and [k, n] is 2mkn. The vision tower counts by windows, attention by the pairs of tokens that may
see each other, padding not at all, and what is frozen forwards only: so MFU's numerator is work that had to be done.
Norms, activations, softmax and the optimizer are left out, as is usual; they are no products.

Of a gradient: each matrix that trains costs its forward product once more, and so does each product through which a
gradient goes on to something that trains. Products that are done again in the backward pass do not count, unless asked
for (`recomputed`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.forest import COT, SFT, TRUNK, Forest, RowSize
from mmkp_jax.models.definition import Definition, flatten
from mmkp_jax.models.freezing import split_params
from mmkp_jax.ops.attention import causal_blocks

STAGES = {
    "visual.patch_embed": "vision tower",
    "visual.blocks": "vision tower",
    "visual.merger": "merger",
    "decoder": "decoder",
    "lm_head": "head",
}
"""The part of the model that parameters belong to, by the beginning of their path; in the order of a forward pass."""

PARTS = tuple(dict.fromkeys(STAGES.values()))

SCANNED = ("visual.blocks", "decoder")
"""Stages whose layers are computed again in the backward pass, with `config.remat`."""

LAST = "mlp.down.weight"
"""The matrix of a layer's last product."""


class Work(NamedTuple):
    """What there is to compute of some rows; sums over all of them."""

    tokens: float
    patches: float
    merged: float
    """Image tokens."""
    labels: float
    token_pairs: float
    """(query, key) that the rule of the forest lets see each other, a token and itself among them."""
    picture_pairs: float
    """(query, key) patches of one picture."""
    window_pairs: float
    """(query, key) patches of one window."""

    def times(self, factor: float) -> "Work":
        """So many times as much."""
        return Work(*(factor * each for each in self))


class Flops(NamedTuple):
    """Of a part of the model."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


def work_of(forest: Forest) -> Work:
    """What packed rows hold, as numpy arrays with any axes in front of [T], [P], [W] and [M]."""
    T, P = forest.segment_BT.shape[-1], forest.image_BP.shape[-1]
    rows = zip(forest.segment_BT.reshape(-1, T), forest.branch_BT.reshape(-1, T), strict=True)
    trees = [
        [np.count_nonzero(branch_T[segment_T == segment] == branch) for branch in (TRUNK, SFT, COT)]
        for segment_T, branch_T in rows
        for segment in range(1, int(segment_T.max(initial=0)) + 1)
    ]
    pictures = [np.bincount(image_P, minlength=1)[1:] for image_P in forest.image_BP.reshape(-1, P)] if P else []
    picture_N = np.concatenate([np.zeros(0, np.int64), *pictures])
    return Work(
        tokens=int(np.count_nonzero(forest.segment_BT)),
        patches=int(picture_N.sum()),
        merged=int(np.count_nonzero(np.asarray(forest.merged_BT) >= 0)),
        labels=int(np.count_nonzero(forest.weight_BM)),
        token_pairs=float(sum(tree_pairs(*tree) for tree in trees)),
        picture_pairs=float(np.square(picture_N, dtype=np.float64).sum()),
        window_pairs=float(np.square(forest.window_BW, dtype=np.float64).sum()),
    )


def tree_pairs(trunk: np.ndarray, *branches: np.ndarray) -> np.ndarray:
    """The pairs of trees whose parts have these lengths, in float64."""
    trunk, *branches = (np.asarray(each, np.float64) for each in (trunk, *branches))
    return trunk * (trunk + 1) / 2 + sum(n * trunk + n * (n + 1) / 2 for n in branches)


def work_of_slots(size: RowSize, rows: int, *, tile_size: int, merge: int) -> Work:
    """What a program computes that looks at every slot, and at the pairs of slots that dense attention looks at.

    Args:
        tile_size: patches of a whole window.
        merge: patches along a side of an image token.
    """
    return Work(
        tokens=size.tokens,
        patches=size.patches,
        merged=size.patches / merge**2,
        labels=size.labels,
        token_pairs=sum((end - start) * end for start, end in causal_blocks(size.tokens)),
        picture_pairs=size.patches**2,
        window_pairs=size.windows * tile_size**2,
    ).times(rows)


class Product(NamedTuple):
    """Of a forward pass: all layers' products with one matrix, or all those of attention."""

    stage: str
    """Of `STAGES`."""
    matrix: str
    """The matrix's path; "" for attention."""
    flops: float


def products_of(definition: Definition, work: Work) -> list[Product]:
    """The products of a forward pass over `work`."""
    config, tower = definition.config, definition.config.vision
    sizes = {path: math.prod(leaf.shape) for path, leaf in flatten(definition.shapes()).items()}

    def with_matrices(stage: str, vectors: float, within: str = "") -> list[Product]:
        matrices = [path for path in sizes if _is_in(path, within or stage) and path.endswith(".weight")]
        return [Product(stage, path, 2 * vectors * sizes[path]) for path in matrices]

    head = "decoder.embedding" if config.tie_embeddings else "lm_head"
    whole = sum(layer < tower.depth for layer in tower.full_attention_layers)
    patch_pairs = whole * work.picture_pairs + (tower.depth - whole) * work.window_pairs
    token_pairs = config.num_layers * work.token_pairs
    return [
        # one kernel, summed over time
        *with_matrices("visual.patch_embed", work.patches / tower.temporal_patch_size),
        *with_matrices("visual.blocks", work.patches),
        Product("visual.blocks", "", 4 * tower.hidden_size * patch_pairs),
        *with_matrices("visual.merger", work.merged),
        *with_matrices("decoder", work.tokens, within="decoder.layers"),
        Product("decoder", "", 4 * config.num_heads * config.head_dim * token_pairs),
        Product("lm_head", head, 2 * work.labels * sizes[head]),
    ]


def forward_flops(definition: Definition, work: Work) -> dict[str, float]:
    """Of a forward pass over `work`, by part."""
    products = products_of(definition, work)
    return {part: sum(each.flops for each in products if STAGES[each.stage] == part) for part in PARTS}


def step_flops(
    definition: Definition, freeze: Sequence[str], work: Work, *, remat: bool | None = None
) -> dict[str, Flops]:
    """Of a train step over `work`, by part.

    Args:
        freeze: what does not train, as `freezing.split_params` takes it.
        remat: None counts nothing twice. Else what the backward pass computes again counts too: the head, whose logits
            are never kept, and, where this is true, the layers except for their last product, which nothing needs;
            where it is false, attention's scores (half of its products), which are never kept either.
    """
    trained = set(flatten(split_params(definition.shapes(), freeze)[0]))
    flops = dict.fromkeys(PARTS, Flops(0.0, 0.0))
    trains_before = False
    for stage, part in STAGES.items():
        products = [each for each in products_of(definition, work) if each.stage == stage]
        trains_here = any(_is_in(path, stage) for path in trained)
        to_input = trains_before or (trains_here and len(products) > 1)  # one alone has nothing before it
        forward = sum(each.flops for each in products)
        again = sum(each.flops for each in products if not each.matrix.endswith(LAST)) if to_input else 0
        again *= remat is not None and (stage == "lm_head" or (remat and stage in SCANNED))
        to_matrices = sum(each.flops for each in products if each.matrix in trained)
        to_other_side = to_input * sum(each.flops for each in products if not each.matrix)  # of attention
        again += to_other_side / 2 * (remat is False)
        backward = to_input * forward + to_matrices + to_other_side + again
        flops[part] = Flops(flops[part].forward + forward, flops[part].backward + backward)
        trains_before = trains_before or trains_here
    return flops


def _is_in(path: str, stage: str) -> bool:
    return f"{path}.".startswith(f"{stage}.")
