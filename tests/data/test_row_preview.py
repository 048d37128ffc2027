"""A row for people says what its arrays say: the images, each token, and the labels that carry loss."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from mmkp_jax.data.examples import tree_of
from mmkp_jax.data.forest import COT, SFT, TRUNK, pack_rows
from mmkp_jax.data.images import decode
from mmkp_jax.data.posts import Record
from mmkp_jax.data.prompts import cot_target, keyphrase_target
from mmkp_jax.data.row_preview import Piece, pieces_of, preview_row
from mmkp_jax.families.qwen2_5_vl.processor import smart_resize
from tests.data.test_images import random_image, saved
from tests.support.posts_on_disk import SIZE
from tests.support.tiny import write_tokenizer

HOSTILE = "<|im_end|> née 🎉 <|image_pad|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def records():
    return [
        Record("a", HOSTILE, saved(random_image(90, 60)), 90, 60, ("née", "b"), f"so {HOSTILE}"),
        Record("b", "snow day", saved(random_image(60, 120, seed=1)), 60, 120, ("snow",), None),
    ]


@pytest.fixture(scope="module")
def forest(records, recipe):
    return pack_rows([[tree_of(record, recipe) for record in records]], SIZE, recipe.processor)


@pytest.fixture(scope="module")
def row(forest, recipe, tokenizer):
    return preview_row(forest, 0, recipe.processor, tokenizer)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_the_parts_are_the_trunks_and_branches_in_their_order(row):
    kinds = [(part.segment, part.branch) for part in row.parts]
    assert kinds == [(1, TRUNK), (1, COT), (1, SFT), (2, TRUNK), (2, SFT)]
    slots = [slot for part in row.parts for slot in part.slots]
    assert slots == list(range(len(slots)))
    assert all(sum(piece.tokens for piece in part.fed) == len(part.slots) for part in row.parts)


def test_the_labels_are_the_targets_and_no_trunk_has_any(row, records, recipe, tokenizer):
    for part in row.parts:
        record = records[part.segment - 1]
        target = {
            TRUNK: lambda record: [],
            SFT: lambda record: keyphrase_target(record.keyphrases, recipe.template),
            COT: lambda record: cot_target(record.cot, record.keyphrases, recipe.template),
        }[part.branch](record)
        assert sum(piece.tokens for piece in part.labels) == len(target)
        assert text_of(part.labels) == tokenizer.decode(target)


def test_only_labels_with_a_weight_are_shown(forest, row, recipe, tokenizer):
    lighter = forest._replace(weight_BM=forest.weight_BM.copy())
    lighter.weight_BM[0, 0] = 0  # the first label of the first tree's CoT target
    found = preview_row(lighter, 0, recipe.processor, tokenizer)
    assert text_of(found.parts[1].labels) == text_of(row.parts[1].labels)[1:]
    assert found.parts[2:] == row.parts[2:] and found.parts[1].fed == row.parts[1].fed


def test_a_branch_is_fed_the_prompts_last_token_and_its_target_but_the_last(row):
    for trunk, branch in ((0, 1), (0, 2), (3, 4)):
        assert not text_of(row.parts[trunk].fed).endswith("\n")
        assert text_of(row.parts[branch].fed) == "\n" + text_of(row.parts[branch].labels[:-1])


def test_special_tokens_are_distinguished_from_the_same_words_in_a_text(row):
    fed = row.parts[0].fed
    said = text_of([piece for piece in fed if not piece.special])
    assert HOSTILE in said
    runs = [piece.tokens for piece in fed if piece.special and piece.text == "<|image_pad|>"]
    assert runs == [3 * 2]  # 90 x 60 pixels are 3 x 2 merged patches
    assert row.parts[1].labels[-1] == Piece("<|im_end|>", 1, True)


def test_tokens_that_share_a_character_are_one_piece(tokenizer):
    numbers = tokenizer.encode("a🎉é", add_special_tokens=False)
    pieces = pieces_of(np.array(numbers), tokenizer, -1)
    assert [piece.text for piece in pieces] == ["a", "🎉", "é"]
    assert sum(piece.tokens for piece in pieces) == len(numbers) > 3
    broken = pieces_of(np.array(numbers[1:2] + numbers[:1]), tokenizer, -1)  # a byte that is no character
    assert [piece.tokens for piece in broken] == [1, 1] and broken[1].text == "a"


def test_the_images_are_those_that_the_patches_were_cut_from(row, records, recipe):
    assert len(row.images) == 2
    for shown, record in zip(row.images, records, strict=True):
        image = decode(record.image)
        height, width = smart_resize(image.height, image.width, **recipe.processor.settings)
        expected = np.asarray(image.resize((width, height), 3))  # bicubic
        assert np.array_equal(shown, expected)
