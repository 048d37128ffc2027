"""Dense and sliced attention equal the plain statement of it: outputs and the gradients of queries, keys and values.

float32; bound 2e-6 of the largest value, where about 5e-7 is seen (two orders of summation).
"""

import functools
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.forest import COT, SFT, TRUNK
from mmkp_jax.ops.attention import DENSE, Backend, dense_attention, forest_mask
from mmkp_jax.ops.attention import same_segment_mask as image_mask
from mmkp_jax.ops.sliced import BLOCK, MAX_BLOCKS, MAX_IMAGE_BLOCKS, SLICED, forest_slices, image_slices
from mmkp_jax.planning.hlo import parse_hlo
from tests.support.devices import fake_devices
from tests.support.hoisted import kept_through_layers
from tests.support.paths import ROOT
from tests.support.plain_attention import plain_attention

BOUND = 2e-6


def runs(*rows: list[int], slots: int) -> np.ndarray:
    """Rows of value, count, value, count, ...; 0 after them."""
    values = [np.repeat(*np.asarray(row, np.int32).reshape(-1, 2).T) for row in rows]
    return np.stack([np.pad(row, (0, slots - len(row))) for row in values])


def one_tree(slots: int) -> tuple[np.ndarray, np.ndarray]:
    cot, sft = slots // 3, slots // 5
    branch = [TRUNK, slots - cot - sft, COT, cot, SFT, sft]
    return runs([1, slots], slots=slots), runs(branch, slots=slots)


FORESTS = {
    "several trees, padding, in blocks": (
        runs([1, 70, 2, 90, 3, 60], [1, 30, 2, 3], slots=300),
        runs([TRUNK, 40, COT, 20, SFT, 10, TRUNK, 60, SFT, 30, COT, 60], [COT, 12, SFT, 18], slots=300),
    ),
    "one tree, whole blocks": one_tree(384),
    "one tree, the last block of one token": one_tree(257),
    "one tree, one block": one_tree(130),
    "blocks of two times 128": one_tree(1100),
    "a row of nothing but padding": tuple(np.concatenate([a, 0 * a]) for a in one_tree(260)),
    "blocks that see no key of the row's start": (
        runs([1, 150, 2, 90, 3, 150, 4, 90, 5, 150, 6, 90], slots=730),
        runs([*[TRUNK, 80, COT, 50, SFT, 20], *[TRUNK, 60, SFT, 30]] * 3, slots=730),
    ),
    "one token": one_tree(1),
}
IMAGES = {
    "partly filled": runs([1, 24, 2, 180, 3, 40], [1, 96], slots=300),
    "blocks that see few others": runs([1, 90, 2, 130, 3, 128, 4, 40, 5, 130], [1, 130, 2, 130], slots=700),
    "full": runs([1, 200, 2, 184], slots=384),
}
BACKENDS = {"dense": DENSE, "sliced": SLICED}
HEADS = {"grouped": (4, 2), "one key head": (3, 1), "as many key heads": (2, 2)}


def operands(shape: tuple[int, int], heads: tuple[int, int], width: int = 24, dtype=np.float32) -> list[np.ndarray]:
    """Queries, keys, values and the gradient of the output."""
    rng = np.random.default_rng(width)
    return [rng.standard_normal((*shape, n, width)).astype(dtype) for n in (heads[0], heads[1], heads[1], heads[0])]


def both_passes(attend, q, k, v, g) -> list[np.ndarray]:
    """The output and the gradients of q, k and v, in float64; all of them finite."""

    @jax.jit
    def run(q, k, v, g):
        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(g.astype(out.dtype))

    arrays = run(q, k, v, g)
    assert all(array.dtype == q.dtype for array in arrays)
    arrays = [np.asarray(array, np.float64) for array in arrays]
    assert all(np.isfinite(array).all() for array in arrays)
    return arrays


def errors(ours: list[np.ndarray], theirs: list[np.ndarray]) -> list[float]:
    """Relative to the largest value, or to 1 where that is more: the gradients of a tree of one token are 0."""
    return [float(np.abs(a - b).max() / max(np.abs(b).max(), 1)) for a, b in zip(ours, theirs, strict=True)]


def longest_of(segment_BT: np.ndarray) -> int:
    """Slots of the longest run of a number that is not 0."""
    return max(np.bincount(row[row > 0]).max(initial=1) for row in segment_BT)


def errors_where(filled_BT: np.ndarray, attend, mask_BTS: jax.Array, args: list[np.ndarray]) -> list[float]:
    """Errors against the plain statement, of filled slots: what an output of padding is does not matter."""
    filled = filled_BT[..., None, None]
    args = [*args[:3], args[3] * filled]
    ours, plain = (
        [each * filled for each in both_passes(f, *args)]
        for f in (attend, functools.partial(plain_attention, mask_BTS=mask_BTS))
    )
    return errors(ours, plain)


def forest_errors(name: str, heads: tuple[int, int], backend: Backend = SLICED, **kind) -> list[float]:
    rows = [jnp.asarray(each) for each in FORESTS[name]]
    attend = backend.forest(*rows, longest_of(FORESTS[name][0]))
    return errors_where(FORESTS[name][0] > 0, attend, forest_mask(*rows), operands(rows[0].shape, heads, **kind))


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("name", FORESTS)
def test_the_forest_equals_the_plain_statement(name, backend):
    assert max(forest_errors(name, (4, 2), backend)) <= BOUND


@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_groups_of_heads(heads):
    assert max(forest_errors("several trees, padding, in blocks", heads, width=80)) <= BOUND


def test_in_float64_they_are_one_function():
    with jax.enable_x64(True):
        assert max(forest_errors("several trees, padding, in blocks", (4, 2), dtype=np.float64)) <= 1e-13


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("row", IMAGES.values(), ids=IMAGES)
def test_images_equal_the_plain_statement(row, backend):
    attend = backend.images(jnp.asarray(row), longest_of(row))
    assert max(errors_where(row > 0, attend, image_mask(jnp.asarray(row)), operands(row.shape, (3, 3)))) <= BOUND


def test_tiles_of_windows_equal_the_plain_statement_empty_ones_too():
    filled_WZ = jnp.arange(64) < jnp.asarray([64, 40, 1, 0])[:, None]
    args = operands(filled_WZ.shape, (3, 3))
    ours, plain = (
        both_passes(functools.partial(attend, mask_BTS=filled_WZ[:, None]), *args)
        for attend in (dense_attention, plain_attention)
    )
    assert max(errors(ours, plain)) <= BOUND


@pytest.mark.parametrize("spread, slack", [(1, 1.15), (3, 2.5)])
def test_bf16_is_about_as_near_to_float32_as_the_plain_statement(spread, slack):
    """The norm of the error; the plain statement's is 0.2% of the norm.

    Flash kernels round to bf16 in the same two places: gradients of scores before their products, and the output that
    the backward pass subtracts the mean by. The latter shows where one key takes most of a query's weight (`spread`).
    """
    rows = [jnp.asarray(a) for a in FORESTS["one tree, whole blocks"]]
    mask = forest_mask(*rows)
    args = [jnp.asarray(spread * a, jnp.bfloat16) for a in operands(rows[0].shape, (4, 2), width=64)]

    def plain(*qkv):
        return plain_attention(*qkv, mask)

    exact = both_passes(plain, *(a.astype(jnp.float32) for a in args))
    ours, theirs = (
        [float(np.linalg.norm(a - b)) for a, b in zip(both_passes(attend, *args), exact, strict=True)]
        for attend in (SLICED.forest(*rows), plain)
    )
    assert all(a <= slack * b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_large_scores_overflow_nothing(size):
    """Scores up to ±`size`, one key a query takes nearly all weight; the hidden keys' scores are the largest.

    Held against the plain statement's largest error of any result: which of them suffers where two keys nearly tie is
    a matter of the last bit, and of the processor (2.7 times with AVX2 alone at 1e4).
    """
    segment_BT, branch_BT = (jnp.asarray(a) for a in one_tree(300))
    q, k, v, g = operands(segment_BT.shape, (4, 2))
    mask = forest_mask(segment_BT, branch_BT)
    k = k * np.linspace(0.1, 10, 300, dtype=np.float32)[:, None, None]  # later ones, which are hidden, are larger
    scale = np.float32(size / (np.abs(np.einsum("btgh,bsgh->gts", q[:, :, ::2], k)).max() * 24**-0.5))
    args = q * scale, k, v, g

    def plain(*qkv):
        return plain_attention(*qkv, mask)

    with jax.enable_x64(True):
        exact = both_passes(plain, *(a.astype(np.float64) for a in args))
    ours, theirs = (errors(both_passes(f, *args), exact) for f in (SLICED.forest(segment_BT, branch_BT), plain))
    assert max(ours) <= 3 * max(theirs) + BOUND


def test_a_hidden_key_adds_exactly_nothing():
    """Whatever it holds: each tree's outputs and gradients are bit for bit the same with the other's values huge."""
    segment_BT, branch_BT = (jnp.asarray(a) for a in FORESTS["several trees, padding, in blocks"])
    q, k, v, g = operands(segment_BT.shape, (4, 2))
    here = np.asarray(segment_BT == 2)[..., None, None]
    attend = SLICED.forest(segment_BT, branch_BT, 220)
    calm = both_passes(attend, q, k, v, g * here)
    wild = both_passes(attend, q, *(np.where(here, a, np.float32(1e30)) for a in (k, v)), g * here)
    assert all(np.array_equal(a * here, b * here) for a, b in zip(calm, wild, strict=True))
    assert all(not np.any(gradient[~np.broadcast_to(here, gradient.shape)]) for gradient in calm[1:])


def test_a_query_that_may_see_nothing_gets_the_mean_of_all_values():
    mask = jnp.asarray(np.tril(np.ones((1, 40, 40), bool))).at[:, 7].set(False)
    q, k, v, g = operands((1, 40), (4, 2))
    attend = functools.partial(dense_attention, mask_BTS=mask)
    out, of_q, _, _ = both_passes(attend, q, k, v, g)
    assert np.allclose(out[0, 7], v[0].mean(axis=0).repeat(2, axis=0), atol=1e-6)
    assert not of_q[0, 7].any()
    plain = both_passes(functools.partial(plain_attention, mask_BTS=mask), q, k, v, g)
    assert max(errors(both_passes(attend, q, k, v, g), plain)) <= BOUND


@pytest.mark.parametrize("longest", [None, 1, 100, 129, 1500, 50_000])
@pytest.mark.parametrize("length", [1, 128, 255, 256, 257, 300, 384, 1024, 1025, 4096, 11_520])
def test_slices_cover_every_query_once_and_the_keys_that_it_may_see(length, longest):
    forest, images = forest_slices(length, longest), image_slices(length, longest)
    reach = length if longest is None else longest - 1
    for slices, most in ((forest, MAX_BLOCKS), (images, MAX_IMAGE_BLOCKS)):
        assert [slot for queries, _ in slices for slot in range(queries.start, queries.stop)] == list(range(length))
        assert len(slices) <= most
        for queries, keys in slices:
            assert queries.start % BLOCK == keys.start % BLOCK == 0 <= keys.start <= max(0, queries.start - reach)
    assert all(keys.stop == queries.stop for queries, keys in forest)
    assert all(min(length, queries.stop + reach) <= keys.stop <= length for queries, keys in images)


def test_sliced_attention_holds_no_array_of_all_pairs():
    """Nor a mask of them; dense attention does."""
    segment_BT, branch_BT = map(jnp.asarray, FORESTS["blocks that see no key of the row's start"])
    image_BP = jnp.asarray(IMAGES["blocks that see few others"])
    for backend, bounded in ((SLICED, True), (DENSE, False)):
        for make, row in (
            (lambda backend=backend: backend.forest(segment_BT, branch_BT, 150), segment_BT),
            (lambda backend=backend: backend.images(image_BP, 130), image_BP),
        ):
            q, k, v, g = operands(row.shape, (2, 2))
            text = jax.jit(lambda q, k, v, g, make=make: jax.vjp(make(), q, k, v)[1](g)).lower(q, k, v, g).as_text()
            assert (f"{row.shape[1]}x{row.shape[1]}x" not in text) == bounded


def moved_scores(attend, mask) -> list[str]:
    """What the compiled passes do to an array as large as all scores, other than to compute it: copies, transposes."""
    q, k, v, g = operands(mask.shape[:2], (4, 2))

    def run(q, k, v, g):
        return jax.vjp(attend, q, k, v)[1](g)

    program = parse_hlo(jax.jit(run).lower(q, k, v, g).compile().as_text())
    scores = 4 * math.prod(mask.shape)
    moving = {"copy", "transpose"}
    return [
        instruction.name
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode in moving and math.prod(instruction.arrays[0].shape) >= scores
    ]


def test_no_array_of_scores_is_copied_or_transposed():
    mask = forest_mask(*map(jnp.asarray, one_tree(200)))
    assert moved_scores(lambda *qkv: plain_attention(*qkv, mask), mask)  # else this test would see nothing
    assert not moved_scores(lambda *qkv: dense_attention(*qkv, mask), mask)


def test_no_scores_wait_for_the_backward_pass():
    rows = [jnp.asarray(a) for a in one_tree(300)]
    mask = forest_mask(*rows)
    q, k, v, _ = operands(mask.shape[:2], (4, 2))

    def kept(attend) -> int:
        return max(a.size for a in jax.tree.leaves(jax.vjp(attend, q, k, v)[1]))

    assert kept(lambda *qkv: plain_attention(*qkv, mask)) >= 4 * mask.size
    assert kept(SLICED.forest(*rows)) <= mask.size


def test_heads_over_the_tensor_axis_send_nothing_and_shared_keys_no_more_than_the_plain_statement():
    command = [sys.executable, "-m", "tests.support.sharded_attention"]
    done = subprocess.run(command, cwd=ROOT, env=fake_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    divided, shared = json.loads(done.stdout.splitlines()[-1]).values()
    assert max(divided["error"], shared["error"]) <= BOUND
    assert divided["sliced"] == []
    assert shared["plain"]  # the gradients of keys that two devices share are summed: the text was read
    assert len(shared["sliced"]) <= len(shared["plain"])


@pytest.mark.parametrize("backend", [DENSE, SLICED])
def test_no_array_of_the_shape_of_scores_is_kept_through_the_layers(backend):
    """Neither a mask for each head nor a constant to fill in; masks have one head."""
    segment, branch = one_tree(6)
    attend = backend.forest(segment, branch, None)
    x, weights = jnp.ones((1, 6, 4, 8)), jnp.ones((2, 8, 8))
    kept = kept_through_layers(lambda x, w: attend(jnp.einsum("btnh,hg->btng", x, w), x, x), x, weights)
    assert (1, 1, 1, 6, 6) in kept and not any(np.prod(shape[:-2]) > 1 for shape in kept if shape[-2:] == (6, 6))
