"""One pass over packed rows gives every example the losses and gradients that it has alone.

float32; bound 1e-5 of the value (losses) or of the gradient's norm, parameter by parameter: packing only changes the
order of sums, and random tiny models show about 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import Forest
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.models.definition import define_from, flatten, random_params
from mmkp_jax.training.objectives import dyncot, objective
from mmkp_jax.training.step import forest_losses
from tests.support.alone import alone_loss
from tests.support.tiny import tiny_config
from tests.support.trees import forest_of, processor_of, random_tree, row_size
from tests.support.two_pass import pack_pair, two_pass_loss

BOUND = 1e-5
CONFIG = tiny_config()
DEFINITION = define_from(FAMILY, CONFIG)
PARAMS = random_params(DEFINITION, 0, spread=0.1)
ROWS = [
    [
        random_tree(0, CONFIG, grids=[(10, 18)], sft=3, cot=11),
        random_tree(1, CONFIG, grids=[], sft=5, cot=6),
        random_tree(2, CONFIG, grids=[(4, 4), (6, 10)], sft=2, cot=0),
    ],
    [
        random_tree(3, CONFIG, grids=[(8, 8)], sft=1, cot=20),
        random_tree(4, CONFIG, grids=[(4, 6)], sft=6, cot=2),
    ],
]
FOREST = forest_of(ROWS, CONFIG, spare=3)
EXAMPLES = 4  # one more than a row holds: an empty slot


def losses_of(params, forest: Forest, examples: int = EXAMPLES):
    return forest_losses(DEFINITION, params, forest, examples=examples, dtype=jnp.float32)


def relative(ours, theirs) -> float:
    """The largest error over parameters, each relative to the parameter's norm, or to a thousandth of the whole
    gradient's largest, where that is more: a gradient that nearly cancels (that of the key bias) is mostly rounding."""
    ours, theirs = flatten(ours), flatten(theirs)
    whole = max(np.linalg.norm(leaf) for leaf in theirs.values())
    return max(
        np.linalg.norm(ours[path] - leaf) / max(np.linalg.norm(leaf), 1e-3 * whole) for path, leaf in theirs.items()
    )


EACH = [(b, s, target) for b, row in enumerate(ROWS) for s in range(len(row)) for target in ("sft", "cot")]


@pytest.fixture(scope="module")
def packed_gradient():
    """A function `(params, row, slot, target) -> that loss and its gradient`, from the packed batch."""

    @jax.jit
    def one(params, b, s, on_cot):
        def loss(params):
            losses = losses_of(params, FOREST)
            return jnp.where(on_cot, losses.cot_BS[b, s], losses.sft_BS[b, s])

        return jax.value_and_grad(loss)(params)

    return one


@pytest.mark.parametrize("b, s, target", EACH)
def test_packed_loss_and_gradient_equal_alone(packed_gradient, b, s, target):
    tree = ROWS[b][s]
    loss, gradient = packed_gradient(PARAMS, b, s, target == "cot")
    alone = jax.jit(jax.value_and_grad(lambda p: alone_loss(DEFINITION, p, tree, getattr(tree, target))))
    loss_alone, gradient_alone = alone(PARAMS)
    if len(getattr(tree, target)) == 0:
        assert loss == 0 and all(np.all(leaf == 0) for leaf in flatten(gradient).values())
        return
    np.testing.assert_allclose(loss, loss_alone, rtol=BOUND)
    assert relative(gradient, gradient_alone) <= BOUND


@pytest.mark.parametrize("choices", ["all SFT", "all CoT", "mixed"])
def test_dynamic_cot_equals_the_literal_two_passes(choices):
    """Choices, losses and gradients are the same for every γ."""
    losses = jax.jit(losses_of)(PARAMS, FOREST)
    with_cot = np.asarray(losses.sft_BS)[np.asarray(losses.has_cot_BS)]
    gamma = {"all SFT": 0.0, "all CoT": with_cot.max() + 1, "mixed": np.median(with_cot)}[choices]
    on_cot_expected = {"all SFT": 0, "all CoT": 4, "mixed": 2}[choices]
    bare = row_size(ROWS, CONFIG)
    pair = pack_pair(ROWS, bare, bare, processor_of(CONFIG))

    def forest_loss(params):
        choice = dyncot(losses_of(params, FOREST, bare.examples), gamma)
        return choice.loss_BS.sum(), (choice.loss_BS, choice.on_cot_BS)

    def literal_loss(params):
        return two_pass_loss(DEFINITION, params, pair, gamma, dtype=jnp.float32)

    (_, (ours, on_cot)), gradient = jax.jit(jax.value_and_grad(forest_loss, has_aux=True))(PARAMS)
    (_, (literal, literal_on_cot)), literal_gradient = jax.jit(jax.value_and_grad(literal_loss, has_aux=True))(PARAMS)
    np.testing.assert_array_equal(on_cot, literal_on_cot)
    assert on_cot.sum() == on_cot_expected
    np.testing.assert_allclose(ours, literal, rtol=BOUND)
    assert relative(gradient, literal_gradient) <= BOUND


def other_tokens(forest: Forest, row: int, segment: int, branch: int | None) -> Forest:
    """A forest with other tokens, labels and (for a whole post) pixels in one branch or one post."""
    here_T = forest.segment_BT[row] == segment
    if branch is not None:
        here_T &= forest.branch_BT[row] == branch
    token_BT, label_BM, patch_BPC = (np.array(a) for a in (forest.token_BT, forest.label_BM, forest.images.patch_BPC))
    text_T = here_T & (forest.images.merged_BT[row] < 0)
    token_BT[row, text_T] = (token_BT[row, text_T] + 17) % 290
    labels_M = here_T[forest.label_slot_BM[row]] & (forest.weight_BM[row] > 0)
    label_BM[row, labels_M] = (label_BM[row, labels_M] + 17) % 290
    if branch is None and segment == 1:
        patch_BPC[row, forest.images.image_BP[row] == 1] ^= 0xFF
    images = forest.images._replace(patch_BPC=patch_BPC)
    return forest._replace(token_BT=token_BT, label_BM=label_BM, images=images)


@pytest.mark.parametrize("row, segment, branch", [(0, 1, 1), (0, 1, 2), (0, 1, None), (0, 2, None), (1, 2, 2)])
def test_other_losses_are_bit_identical_when_a_branch_or_post_changes(row, segment, branch):
    run = jax.jit(losses_of)
    before, after = run(PARAMS, FOREST), run(PARAMS, other_tokens(FOREST, row, segment, branch))
    for name, own in (("sft_BS", 1), ("cot_BS", 2)):
        moved = np.asarray(getattr(before, name) != getattr(after, name))
        expected = np.zeros_like(moved)
        expected[row, segment - 1] = branch in (None, own)
        np.testing.assert_array_equal(moved, expected)


def test_posts_without_cot_empty_slots_and_padding_rows_have_finite_loss_and_gradient():
    forest = forest_of([[random_tree(0, CONFIG, cot=0)], [], [random_tree(1, CONFIG)]], CONFIG, spare=2)

    def loss(params, strategy, gamma):
        choice = objective(strategy)(losses_of(params, forest), jnp.float32(gamma))
        return choice.loss_BS.sum()

    for strategy, gamma in (("sft", 0.0), ("cot", 0.0), ("multitask", 0.0), ("dyncot", 0.0), ("dyncot", 1e9)):
        value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))(PARAMS, strategy, gamma)
        assert np.isfinite(value) and value > 0
        assert all(np.isfinite(leaf).all() for leaf in flatten(gradient).values())


def test_a_batch_of_padding_alone_has_zero_loss_and_gradient():
    forest = forest_of([[], []], CONFIG, spare=4)
    value, gradient = jax.value_and_grad(lambda p: sum(losses_of(p, forest)[:2]).sum())(PARAMS)
    assert value == 0 and all(np.all(leaf == 0) for leaf in flatten(gradient).values())
