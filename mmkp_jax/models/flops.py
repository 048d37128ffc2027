"""Floating-point operations of a model's matrix products, counted from its shapes and from what rows hold.

A product of [m, k] and [k, n] is 2mkn. Images count as their family says, attention by the pairs of tokens that may see
each other, padding not at all, and frozen parts forward only: so MFU's numerator is work that had to be done.
Norms, activations, softmax and the optimizer are left out, as is usual: they are not matrix products.

In the backward pass each matrix that trains costs its forward product once more, and so does each product through
which a gradient flows to something that trains; the input of the first that trains needs none. With LoRA the base's
matrices therefore cost less; the adapters' own products count. Recomputed products do not count, unless requested
(`remat`).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmkp_jax.data.forest import COT, SFT, TRUNK, Forest, RowSize
from mmkp_jax.data.processor import Processor
from mmkp_jax.models.definition import Definition, flatten
from mmkp_jax.models.family import Family, Product, Stage, Work
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.ops.sliced import forest_slices, image_slices, pairs


class Flops(NamedTuple):
    """FLOPs of a part of the model."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


def work_of(forest: Forest, processor: Processor) -> Work:
    """The work of packed rows, numpy arrays with any leading axes."""
    T = forest.segment_BT.shape[-1]
    rows = zip(forest.segment_BT.reshape(-1, T), forest.branch_BT.reshape(-1, T), strict=True)
    trees = [
        [np.count_nonzero(branch_T[segment_T == segment] == branch) for branch in (TRUNK, SFT, COT)]
        for segment_T, branch_T in rows
        for segment in range(1, int(segment_T.max(initial=0)) + 1)
    ]
    return Work(
        tokens=int(np.count_nonzero(forest.segment_BT)),
        labels=int(np.count_nonzero(forest.weight_BM)),
        token_pairs=float(sum(tree_pairs(*tree) for tree in trees)),
        images=processor.work(forest.images, forest.segment_BT),
    )


def tree_pairs(trunk: np.ndarray, *branches: np.ndarray) -> np.ndarray:
    """(query, key) pairs of trees with these lengths of trunk and branches, in float64."""
    trunk, *branches = (np.asarray(each, np.float64) for each in (trunk, *branches))
    return trunk * (trunk + 1) / 2 + sum(n * trunk + n * (n + 1) / 2 for n in branches)


def work_of_slots(size: RowSize, rows: int, family: Family, processor: Processor) -> Work:
    """The work of a program that computes every slot, and the pairs of slots that sliced attention computes."""
    images = processor.work_of_slots(size.slots())
    if processor.slots:
        slices = image_slices(size.images[processor.slots[0]], processor.longest_image or None)
        images |= dict.fromkeys(family.attended, pairs(slices))
    return Work(
        tokens=size.tokens,
        labels=size.labels,
        token_pairs=pairs(forest_slices(size.tokens, size.longest_tree)),
        images=images,
    ).times(rows)


def with_matrices(sizes: Mapping[str, int], stage: str, vectors: float, within: str = "") -> list[Product]:
    """The products of `vectors` vectors with each matrix of a stage, or of its part `within`."""
    matrices = [path for path in sizes if _is_in(path, within or stage) and path.endswith(".weight")]
    return [Product(stage, path, 2 * vectors * sizes[path]) for path in matrices]


def products_of(definition: Definition, work: Work) -> list[Product]:
    """The products of a forward pass over `work`; an adapter's two are next to those of its linear."""
    sizes = {path: math.prod(leaf.shape) for path, leaf in flatten(definition.base_shapes()).items()}
    products = definition.family.products(definition.config, sizes, work)
    of_adapters = {path: math.prod(leaf.shape) for path, leaf in flatten(definition.shapes()).items()}
    counted: set[str] = set()
    for each in list(products):
        pair = definition.adapters.get(each.matrix.removesuffix(".weight"))
        for path in pair or ():
            if path not in counted:  # an A that several share is multiplied once
                products.append(Product(each.stage, path, each.flops / sizes[each.matrix] * of_adapters[path]))
            counted.add(path)
    return products


def step_flops(
    definition: Definition, freeze: Sequence[str], work: Work, *, remat: bool | None = None, features: bool = False
) -> dict[str, Flops]:
    """FLOPs of a train step over `work`, by part.

    Args:
        freeze: what is frozen without LoRA, as in `config.freeze`.
        remat: None counts nothing twice. Otherwise what the backward pass recomputes counts too: the head, whose logits
            are never saved, and attention's scores (half of its products), which are not either; if true, the layers'
            products with matrices, too, except for the last, which nothing needs.
        features: rows hold the frozen tower's features in place of pixels: it is not computed.
    """
    trained = set(flatten(split_trained(definition, definition.shapes(), freeze)[0]))
    stages, every = definition.family.stages, products_of(definition, work)
    stages = tuple(stage for stage in stages if not (features and stage.part == "tower"))
    flops = {stage.part: Flops(0.0, 0.0) for stage in stages}
    trains_before = False
    for stage in stages:
        products = [each for each in every if each.stage == stage.path]
        trains_here = any(_is_in(path, stage.path) for path in trained)
        to_input = trains_before or (trains_here and len(products) > 1)  # a single product has nothing before it
        forward = sum(each.flops for each in products)
        needed = (each for each in products if each.matrix and not (stage.last and each.matrix.endswith(stage.last)))
        again = to_input * sum(each.flops for each in needed)
        again *= remat is not None and (stage.part == "head" or (remat and stage.scanned))
        to_matrices = sum(each.flops for each in products if each.matrix in trained)
        to_other_side = to_input * sum(each.flops for each in products if not each.matrix)  # of attention
        again += to_other_side / 2 * (remat is not None)
        first = () if trains_before else _first_of(stage, products, definition, trained)
        to_frozen = sum(each.flops for each in products if each.matrix in first)  # an input that nothing trained made
        backward = to_input * (forward - to_frozen) + to_matrices + to_other_side + again
        before = flops[stage.part]
        flops[stage.part] = Flops(before.forward + forward, before.backward + backward)
        trains_before = trains_before or trains_here
    return flops


def _first_of(
    stage: Stage, products: Sequence[Product], definition: Definition, trained: Collection[str]
) -> tuple[str, ...]:
    """The matrices of a stage that its input is multiplied with: the first one, and the A of its adapter.

    Empty in a layer's stage, of which only the first layer has them, and where a norm before them trains.
    """
    pairs = [path for pair in definition.adapters.values() for path in pair]
    own = [each.matrix for each in products if each.matrix not in pairs]
    firsts = own if len(own) == 1 else [path for path in own if stage.first and path.endswith(stage.first)]
    modules = [path.removesuffix(".weight") for path in own]
    norms = [path for path in trained if _is_in(path, stage.path) and not any(_is_in(path, each) for each in modules)]
    if not firsts or (norms and len(own) > 1):
        return ()
    return (firsts[0], *definition.adapters.get(firsts[0].removesuffix(".weight"), ())[:1])


def _is_in(path: str, stage: str) -> bool:
    return f"{path}.".startswith(f"{stage}.")
