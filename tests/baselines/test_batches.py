"""Batches of an epoch: every pair once, of like lengths; and the places of real words."""

import numpy as np

from mmkp_jax.baselines.batches import POOL, Limits, Pair, Source, batch_of, epoch_batches
from mmkp_jax.baselines.model import END
from mmkp_jax.data.posts import Record


def test_an_epoch_has_every_pair_once_in_batches_of_like_length_and_an_order_of_its_own():
    length_N = np.random.default_rng(0).integers(1, 100, 2 * POOL * 4 + 3)
    batches = epoch_batches(length_N, 4, 5, 0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(length_N)))
    assert all(len(each) <= 4 for each in batches) and sum(len(each) < 4 for each in batches) == 1
    assert np.mean([np.ptp(length_N[each]) for each in batches]) < 4
    assert all(map(np.array_equal, batches, epoch_batches(length_N, 4, 5, 0)))
    assert not all(map(np.array_equal, batches, epoch_batches(length_N, 4, 5, 1)))
    means = [length_N[each].mean() for each in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4  # short ones are not all first


def test_a_batch_has_few_widths_and_says_where_its_real_words_are():
    sources = [
        Source(Record("a", "", b"", 0, 0, ("k",), None), [5] * length, [5] * length, [], []) for length in (3, 17)
    ]
    pairs = [Pair(0, [6, END], 0), Pair(1, [6, 7, END], -1)]
    batch = batch_of(pairs, sources, None, Limits(100, 6), 3)
    assert batch.inputs.source_BS.shape == (3, 32)  # 16 times a power of 2
    assert batch.target_BT.shape == (3, 7) and batch.weight_B.tolist() == [1, 1, 0]
    assert batch.place_P.tolist() == [0, 1, 7, 8, 9] + [0] * 7
    np.testing.assert_array_equal(batch.target_BT.reshape(-1)[batch.place_P[:5]], [6, END, 6, 7, END])
