"""One pass over packed rows gives every example the losses and gradients that it has alone, in every family.

float32; bound 1e-5 of the value (losses) or of the gradient's norm, parameter by parameter: packing only changes the
order of sums, and random tiny models show about 1e-6.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import Forest, RowSize, Tree, pack_rows
from mmkp_jax.models.definition import flatten
from mmkp_jax.training.decisions import DECISIONS, Threshold, decide
from mmkp_jax.training.objectives import objective
from mmkp_jax.training.step import forest_losses
from tests.support.alone import alone_row, nll_alone
from tests.support.two_pass import pack_pair, two_pass_loss
from tests.support.zoo import TinyModel, all_geometries, first_geometries, forest_of, model_of, random_tree, row_size

BOUND = 1e-5
EXAMPLES = 4  # one more than a row holds: an empty slot


class Rows(NamedTuple):
    """A member's model, and rows of it."""

    model: TinyModel
    rows: list[list[Tree]]
    forest: Forest


@functools.cache
def rows_of(name: str, geometry: str) -> Rows:
    """Two rows: images of several sizes, two in one post, posts without images, one without a chain of thought."""
    model = model_of(name, geometry)
    rows = [
        [
            random_tree(0, model, images=[1], sft=3, cot=11),
            random_tree(1, model, images=[], sft=5, cot=6),
            random_tree(2, model, images=[0, 2], sft=2, cot=0),
        ],
        [
            random_tree(3, model, images=[0], text=3, sft=1, cot=20),
            random_tree(4, model, images=[2], sft=6, cot=2),
        ],
    ]
    return Rows(model, rows, forest_of(rows, model, spare=3))


def losses_of(model: TinyModel, params, forest: Forest, examples: int = EXAMPLES):
    return forest_losses(model.definition, params, forest, examples=examples, dtype=jnp.float32)


def relative(ours, theirs) -> float:
    """The largest error over parameters, each relative to the parameter's norm, or to a thousandth of the whole
    gradient's largest, where that is more: a gradient that nearly cancels (that of the key bias) is mostly rounding.
    For a gate it is 3%: its one number sums over all tokens and widths, and nearly cancels as a rule."""
    ours, theirs = flatten(ours), flatten(theirs)
    whole = max(np.linalg.norm(leaf) for leaf in theirs.values())

    def least(path: str) -> float:
        return (3e-2 if path.endswith("gate") else 1e-3) * whole

    return max(
        np.linalg.norm(ours[path] - leaf) / max(np.linalg.norm(leaf), least(path)) for path, leaf in theirs.items()
    )


@functools.cache
def both_gradients(name: str, geometry: str):
    """Functions `(params, row, slot, whether on CoT)` and `(params, plain sequence)` -> a loss and its gradient."""
    model, _, forest = rows_of(name, geometry)

    def packed(params, b, s, on_cot):
        losses = losses_of(model, params, forest)
        return jnp.where(on_cot, losses.cot_BS[b, s], losses.sft_BS[b, s])

    def alone(params, sequence):
        return nll_alone(model.definition, params, sequence)

    return jax.jit(jax.value_and_grad(packed)), jax.jit(jax.value_and_grad(alone))


def longest_alone(rows: Rows) -> RowSize:
    """A row for any of the examples with either target, as a plain sequence."""
    processor = rows.model.processor
    each = [row_size([[tree]], processor) for trees in rows.rows for tree in trees]
    images = {kind: max(size.images[kind] for size in each) for kind in processor.slots}
    return RowSize(max(size.tokens for size in each), 0, 1, images)


@pytest.mark.parametrize("target", ["sft", "cot"])
@pytest.mark.parametrize("name, geometry", all_geometries())
def test_packed_losses_and_gradients_equal_alone(name, geometry, target):
    rows = rows_of(name, geometry)
    packed, alone = both_gradients(name, geometry)
    size, params = longest_alone(rows), rows.model.params
    for b, trees in enumerate(rows.rows):
        for s, tree in enumerate(trees):
            loss, gradient = packed(params, b, s, target == "cot")
            if len(getattr(tree, target)) == 0:
                assert loss == 0 and all(np.all(leaf == 0) for leaf in flatten(gradient).values())
                continue
            sequence = alone_row(rows.model.definition, tree, getattr(tree, target), size)
            loss_alone, gradient_alone = alone(params, sequence)
            np.testing.assert_allclose(loss, loss_alone, rtol=BOUND)
            assert relative(gradient, gradient_alone) <= BOUND


@pytest.mark.parametrize("decision", ["paper", pytest.param("mode_free", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name, geometry", first_geometries(default=("qwen2_5_vl",)))
def test_dynamic_cot_equals_the_literal_two_passes(name, geometry, decision):
    """Choices, losses and gradients are the same for every γ."""
    rows = rows_of(name, geometry)
    definition, params = rows.model.definition, rows.model.params
    bare = row_size(rows.rows, rows.model.processor)
    pair = pack_pair(rows.rows, bare, bare, rows.model.processor, with_think=decision == "mode_free")
    choose = objective("dyncot", decision=decision)

    @jax.jit
    def ours_of(params, gamma):
        def loss(params):
            choice = choose(losses_of(rows.model, params, rows.forest, bare.examples), Threshold(gamma))
            return choice.loss_BS.sum(), (choice.loss_BS, choice.on_cot_BS)

        return jax.value_and_grad(loss, has_aux=True)(params)

    @jax.jit
    def literal_of(params, gamma):
        def loss(params):
            return two_pass_loss(definition, params, pair, gamma, dtype=jnp.float32, decision=DECISIONS[decision])

        return jax.value_and_grad(loss, has_aux=True)(params)

    losses = jax.jit(functools.partial(losses_of, rows.model))(params, rows.forest)
    number_BS = decide(DECISIONS[decision], losses, Threshold(jnp.float32(0))).number_BS
    with_cot = np.asarray(number_BS)[np.asarray(losses.has_cot_BS)]
    gammas = {"all SFT": 0.0, "all CoT": with_cot.max() + 1, "mixed": np.median(with_cot)}
    for choices, on_cot_expected in {"all SFT": 0, "all CoT": 4, "mixed": 2}.items():
        gamma = jnp.float32(gammas[choices])
        (_, (ours, on_cot)), gradient = ours_of(params, gamma)
        (_, (literal, literal_on_cot)), literal_gradient = literal_of(params, gamma)
        np.testing.assert_array_equal(on_cot, literal_on_cot)
        assert on_cot.sum() == on_cot_expected
        np.testing.assert_allclose(ours, literal, rtol=BOUND)
        assert relative(gradient, literal_gradient) <= BOUND


def other_tokens(rows: Rows, row: int, segment: int, branch: int | None) -> Forest:
    """The forest with other tokens and labels in one branch or one post, and, for a whole post, other images."""
    forest, model = rows.forest, rows.model
    here_T = forest.segment_BT[row] == segment
    if branch is not None:
        here_T &= forest.branch_BT[row] == branch
    token_BT, label_BM = (np.array(a) for a in (forest.token_BT, forest.label_BM))
    text_T = here_T & (token_BT[row] < 290)
    token_BT[row, text_T] = (token_BT[row, text_T] + 17) % 290
    labels_M = here_T[forest.label_slot_BM[row]] & (forest.weight_BM[row] > 0)
    label_BM[row, labels_M] = (label_BM[row, labels_M] + 17) % 290
    forest = forest._replace(token_BT=token_BT, label_BM=label_BM)
    if branch is not None:
        return forest
    tree = rows.rows[row][segment - 1]
    inverted = Tree(tree.prompt, tree.sft, tree.cot, tree.layouts, tuple(255 - pixels for pixels in tree.pixels))
    changed = [list(trees) for trees in rows.rows]
    changed[row][segment - 1] = inverted
    return forest._replace(images=forest_of(changed, model, spare=3).images)


@pytest.mark.parametrize("name, geometry", first_geometries())
def test_other_losses_are_bit_identical_when_a_branch_or_post_changes(name, geometry):
    rows = rows_of(name, geometry)
    run = jax.jit(functools.partial(losses_of, rows.model))
    before = run(rows.model.params, rows.forest)
    for row, segment, branch in [(0, 1, 1), (0, 1, 2), (0, 1, None), (0, 2, None), (1, 2, 2)]:
        after = run(rows.model.params, other_tokens(rows, row, segment, branch))
        for field, own in (("sft_BS", 1), ("cot_BS", 2)):
            moved = np.asarray(getattr(before, field) != getattr(after, field))
            expected = np.zeros_like(moved)
            expected[row, segment - 1] = branch in (None, own)
            np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("name, geometry", first_geometries())
def test_another_image_alone_changes_its_own_posts_losses_alone(name, geometry):
    rows = rows_of(name, geometry)
    if not rows.model.member.sizes:
        assert rows.forest.images == ()
        return
    run = jax.jit(functools.partial(losses_of, rows.model))
    whole = other_tokens(rows, 0, 1, None)
    before, after = (run(rows.model.params, rows.forest._replace(images=f.images)) for f in (rows.forest, whole))
    for field in ("sft_BS", "cot_BS"):
        moved = np.asarray(getattr(before, field) != getattr(after, field))
        assert moved[0, 0] and moved.sum() == 1


@pytest.mark.parametrize("name, geometry", first_geometries(default=("qwen2_5_vl",)))
def test_posts_without_cot_empty_slots_and_padding_rows_have_finite_loss_and_gradient(name, geometry):
    model = model_of(name, geometry)
    rows = [[random_tree(0, model, cot=0)], [], [random_tree(1, model)]]
    forest = forest_of(rows, model, spare=2)
    padding = pack_rows([[], [], []], row_size(rows, model.processor, spare=2), model.processor)

    @jax.jit
    def gradients(params, forest, gamma):
        losses, back = jax.vjp(lambda params: losses_of(model, params, forest), params)
        found = {}
        for strategy in ("sft", "cot", "multitask", "dyncot", "decoupled"):
            value, to_losses = jax.value_and_grad(
                lambda losses, strategy=strategy: objective(strategy)(losses, Threshold(gamma)).loss_BS.sum(),
                allow_int=True,
            )(losses)
            found[strategy] = value, back(to_losses)[0]
        return found

    for gamma in (0.0, 1e9):
        for value, gradient in gradients(model.params, forest, jnp.float32(gamma)).values():
            assert np.isfinite(value) and value > 0
            assert all(np.isfinite(leaf).all() for leaf in flatten(gradient).values())
    for value, gradient in gradients(model.params, padding, jnp.float32(0)).values():
        assert value == 0 and all(np.all(leaf == 0) for leaf in flatten(gradient).values())
