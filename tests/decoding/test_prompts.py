"""Prompts in batches of few sizes."""

import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize, Tree
from mmkp_jax.decoding.prompts import Prompt, pack_trunks, padded_size, plan_batches, prompt_of
from tests.support.tiny import tiny_config
from tests.support.trees import processor_of, random_tree, row_of


def prompts_of(lengths) -> list[Prompt]:
    return [Prompt(str(i), row_of(n, 2 * n, n // 30, 0, 1), 0, 0) for i, n in enumerate(lengths)]


def test_every_prompt_is_in_one_row_that_holds_it():
    prompts = prompts_of(np.random.default_rng(0).integers(20, 3000, 500).tolist())
    batches = plan_batches(prompts, rows=8)
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(500))
    for batch in batches:
        assert 1 <= len(batch.numbers) <= 8
        for slots in ("tokens", "patches", "windows"):
            most = max(prompts[number].size.slots()[slots] for number in batch.numbers)
            assert most <= batch.size.slots()[slots]
    lengths = [batch.size.tokens for batch in batches]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) == 5  # to 256, 512, 1024, 2048, 4096


def test_a_few_tokens_more_or_less_come_to_the_same_size():
    sizes = [batch.size for most in (605, 612, 629) for batch in plan_batches(prompts_of([550, most]), rows=8)]
    assert len(sizes) == 3 and all(size == sizes[0] for size in sizes) and sizes[0].tokens == 640


def test_rows_of_text_have_no_patches():
    config = tiny_config()
    tree = random_tree(0, config, grids=[])
    (batch,) = plan_batches([prompt_of("a", tree, processor_of(config))], rows=2)
    forest = pack_trunks([tree, None], batch.size, processor_of(config))
    assert forest.images.patch_BPC.shape[1] == 0 and forest.label_BM.shape == (2, 0)
    assert (forest.segment_BT > 0).sum(axis=1).tolist() == [len(tree.prompt) - 1, 0]


def test_decoding_continues_from_the_last_token():
    config = tiny_config()
    tree = random_tree(0, config, grids=[(4, 12)], text=5)
    prompt = prompt_of("a", tree, processor_of(config))
    assert prompt.last_token == tree.prompt[-1] and prompt.size.tokens == len(tree.prompt) - 1
    assert prompt.last_position == 3 + 6 + 2 + 5 - 1  # an image of 2 x 6 merged patches takes six positions


@pytest.mark.parametrize("tokens", [[5], [5, tiny_config().image_token_id]])
def test_a_prompt_that_nothing_can_go_on_from_is_refused(tokens):
    processor = processor_of(tiny_config())
    layouts = [processor.layout_of((2, 2))] * tokens.count(tiny_config().image_token_id)
    with pytest.raises(ValueError, match="'a' must have two tokens at least and end with a text token"):
        prompt_of("a", Tree(tokens, [], [], layouts), processor)


@pytest.mark.parametrize(
    "slots, padded", [({"images": 1}, 1), ({"tiles": 13}, 14), ({"tiles": 7}, 7), ({"patches": 1156}, 1280)]
)
def test_a_prompts_few_images_are_not_rounded_up(slots, padded):
    """One image as eight would cost eight towers, and eight times the keys that a slot keeps."""
    size = padded_size([RowSize(tokens=100, labels=0, examples=1, images=slots)])
    assert list(size.images.values()) == [padded]
