"""Every place of a slot's text is in a page of its own, whatever other slots take and give back."""

import numpy as np
import pytest

from mmkp_jax.decoding.paging import NOWHERE, SHORT_TEXT, PageTable


def owners(table: PageTable) -> dict[tuple[int, int], tuple[int, int]]:
    """(slot, number of its page) by (shard, page), as the slots' own lists have it; no page may be of two."""
    shards = len(table.pages.slot_C) // table.count
    of_shard = len(table.pages.page_BJ) // shards
    found = {}
    for slot, pages in enumerate(table.pages.page_BJ.tolist()):
        for number, page in enumerate(pages):
            if page != NOWHERE:
                assert found.setdefault((slot // of_shard, page), (slot, number)) == (slot, number)
    return found


@pytest.mark.parametrize("shards", [1, 3])
def test_pages_are_of_one_text_each_through_taking_giving_back_and_growing(shards):
    rng = np.random.default_rng(shards)
    slots, longest = 6, 300
    table = PageTable(shards, slots, longest)
    assert (table.width, table.most, table.in_all) == (64, 5 * slots // shards, 0)
    table.grow(1)
    positions, counts = dict.fromkeys(range(slots), 0), set()
    for _ in range(400):
        slot = int(rng.integers(slots))
        if rng.random() < 0.3:
            table.give_back(slot)
            positions[slot] = 0
        else:
            wanted = {slot: int(rng.integers(positions[slot], longest + 1))}
            if (needed := table.needed(wanted)) > table.count:
                assert needed <= table.most
                table.grow(needed)
                counts.add(table.count)
            table.take(slot, wanted[slot])
            positions |= wanted
        found = owners(table)
        for number, had in positions.items():
            pages = table.pages.page_BJ[number]
            assert (pages[: -(-had // 64)] < table.count).all() and (pages != NOWHERE).sum() == -(-had // 64)
        for at, (whose, first) in enumerate(zip(table.pages.slot_C, table.pages.first_C, strict=True)):
            shard, page = divmod(at, table.count)
            if (shard, page) in found:
                slot, number = found[shard, page]
                assert (whose, first) == (slot % (slots // shards), 64 * number)
            else:
                assert first == NOWHERE
    assert table.before_last in counts and table.count == table.most and 1 < len(counts) <= 8


def test_inserts_go_to_the_pages_of_all_shards():
    table = PageTable(2, 4, 2 * SHORT_TEXT)
    table.grow(16)
    for slot in (0, 3):
        table.take(slot, 200)
    page_MJ = table.numbers_of(np.array([3, 0, 4], np.int32))  # slot 4 there is not
    assert table.width == 128 and page_MJ.shape == (3, 8)
    assert (page_MJ[0, :2] >= 16).all() and (page_MJ[0, :2] < 32).all() and (page_MJ[1, :2] < 16).all()
    assert (page_MJ[:2, 2:] == NOWHERE).all() and (page_MJ[2] == NOWHERE).all()
