"""Pocket's posts: the same for a seed, at MMKP-V2's rates, and their keyphrases follow from what `needs` names."""

import json
import random
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmkp_jax.evaluation.stemming import stem
from mmkp_jax.pocket.drawing import SHAPES, SIDES, draw_emblem
from mmkp_jax.pocket.posts import SIZES, draw_image, make_posts, write_posts
from mmkp_jax.pocket.rates import is_present, measure_rates
from mmkp_jax.pocket.wording import PostFacts, write_chain
from mmkp_jax.pocket.world import (
    CLASH_CUES,
    CLUB_OF_SHAPE,
    GATHERING_CUES,
    OPTIONS,
    PLACE_FIRST,
    PLACE_LAST,
    RGB_OF_COLOUR,
    SEASON_CUES,
    apportion,
    make_world,
)


@pytest.fixture(scope="module", params=[0, 1], ids=["seed 0", "seed 1"])
def splits(request):
    """All posts of a seed."""
    return make_posts(make_world(request.param), request.param)


def named_by(cues: dict, text: str) -> list[str]:
    """What the words of a text hint at, by the table of cues alone."""
    return [name for name, words in cues.items() if any(f" {word} " in f" {text} " for word in words)]


def look(image: Image.Image) -> tuple[str, str]:
    """Shape and colour of an emblem, from its pixels alone: the coloured ones, compared with each shape."""
    pixel_HW3 = np.asarray(image).astype(int)
    inside_HW = np.ptp(pixel_HW3, axis=-1) > 60
    rows, columns = (np.flatnonzero(inside_HW.sum(axis=axis) > 2) for axis in (1, 0))
    seen = Image.fromarray(inside_HW).crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).resize((48, 48))
    mean_3 = np.median(pixel_HW3[inside_HW], axis=0)

    def unlike_shape(shape: str) -> float:
        template = Image.new("L", (96, 96))
        SHAPES[shape](ImageDraw.Draw(template), (0, 0, 95, 95))
        wanted = np.asarray(template.crop(template.getbbox()).resize((48, 48))) > 127
        return np.mean(wanted != np.asarray(seen))

    def unlike_colour(colour: str) -> float:
        wanted_3 = np.array(RGB_OF_COLOUR[colour])
        return np.linalg.norm(mean_3 / np.linalg.norm(mean_3) - wanted_3 / np.linalg.norm(wanted_3))

    return min(SHAPES, key=unlike_shape), min(RGB_OF_COLOUR, key=unlike_colour)


def test_rates_are_those_of_mmkp_v2_within_three_points(splits):
    records = {split: [post.record() for post in posts] for split, posts in splits.items()}
    rates = {split: measure_rates(posts, records["train"], stem) for split, posts in records.items()}
    assert {split: rate.posts for split, rate in rates.items()} == dict(SIZES)
    for split in ("train", "test"):
        assert rates[split].per_post == pytest.approx(1.29, abs=0.03)
        assert rates[split].present == pytest.approx(0.37, abs=0.03)
        assert 0.02 < rates[split].without_cot < 0.07
        assert 0.005 < rates[split].without_image < 0.05
    assert rates["test"].overlap == pytest.approx(0.4492, abs=0.03)
    assert 0.4 < rates["test"].unseen_posts < 0.75
    assert rates["valid"].overlap == pytest.approx(0.4492, abs=0.05)
    assert rates["train"].overlap == 1


def test_no_two_posts_have_the_same_text(splits):
    texts = [post.text for posts in splits.values() for post in posts]
    assert len(set(texts)) == len(texts)
    assert all(text == " ".join(text.lower().split()) for text in texts)


def test_ids_count_the_lines_of_a_split(splits):
    for split, posts in splits.items():
        assert [post.id for post in posts] == [f"{split}-{i}" for i in range(1, len(posts) + 1)]


def test_unseen_keyphrases_are_made_of_seen_words(splits):
    train = {word for post in splits["train"] for phrase in post.keyphrases for word in phrase.split()}
    assert all(word in train for post in splits["test"] for phrase in post.keyphrases for word in phrase.split())


def test_training_never_names_an_unseen_keyphrase(splits):
    train = {phrase for post in splits["train"] for phrase in post.keyphrases}
    unseen = {phrase for post in splits["test"] for phrase in post.keyphrases} - train
    assert unseen
    for post in splits["train"]:
        assert not any(f" {phrase} " in f" {post.text} {post.cot} " for phrase in unseen), post.id


def test_text_keyphrases_follow_from_the_text_alone(splits):
    for post in splits["test"]:
        places = [f"{first} {last}" for first in PLACE_FIRST for last in PLACE_LAST]
        found = {place for place in places if is_present(place, post.text)}
        seasons, gatherings = named_by(SEASON_CUES, post.text), named_by(GATHERING_CUES, post.text)
        assert len(seasons) == len(gatherings) <= 1, post.text
        found |= {f"{season} {gathering}" for season, gathering in zip(seasons, gatherings, strict=True)}
        assert found == {phrase for phrase, need in post.needs.items() if need == "text"}


def test_images_show_clubs_and_with_the_text_their_clashes(splits):
    for post in splits["test"][:150]:
        needs = set(post.needs.values())
        if needs == {"text"}:
            assert post.emblem is None
            continue
        shape, colour = look(draw_image(post, seed=5))
        assert (shape, colour) == post.emblem, post.id
        for phrase, need in post.needs.items():
            if need == "image":
                assert phrase == f"{colour} {CLUB_OF_SHAPE[shape]}"
            elif need == "both":
                (kind,) = named_by(CLASH_CUES, post.text)
                assert phrase == f"{CLUB_OF_SHAPE[shape]} {kind}"


def test_texts_say_nothing_about_what_needs_an_image(splits):
    found = {stem(word) for clause in ("fan", "clash", "event") for words in OPTIONS[clause] for word in words}
    found |= {stem(shape) for shape in CLUB_OF_SHAPE}
    for posts in splits.values():
        for post in posts:
            assert not found & {stem(word) for word in post.text.split()}, post.text


def test_only_places_are_present(splits):
    for post in splits["test"]:
        for phrase in post.keyphrases:
            assert is_present(phrase, post.text, stem) == (phrase.split()[0] in PLACE_FIRST)


def test_clashes_and_fans_give_a_text_no_club(splits):
    """With images permuted nothing is left: the same text comes with any club."""
    clubs = defaultdict(set)
    for post in splits["train"]:
        if "both" in post.needs.values():
            clubs[named_by(CLASH_CUES, post.text)[0]].add(post.keyphrases[0].split()[0])
    assert all(len(of_kind) > 1 for of_kind in clubs.values())


def test_a_chain_ends_in_each_keyphrase(splits):
    for post in splits["train"]:
        if post.cot:
            ends = [post.cot.rfind(f"{phrase} .") for phrase in post.keyphrases]
            assert min(ends) > 0 and ends == sorted(ends), post.cot
            if post.emblem:
                assert all(word in post.cot for word in (*post.emblem, CLUB_OF_SHAPE[post.emblem[0]]))


def test_writes_the_general_form(tmp_path):
    sizes = {"train": 12, "test": 8}
    splits = make_posts(make_world(3), 3, sizes)
    write_posts(splits, 3, tmp_path / "pocket")
    records = [json.loads(line) for line in (tmp_path / "pocket/posts/train.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"train-{i}" for i in range(1, 13)]
    for record in records:
        assert list(record) == ["id", "text", "image", "keyphrases", "cot"]
        if record["image"]:
            with Image.open(tmp_path / "pocket/images" / record["image"]) as image:
                assert image.mode == "RGB" and image.size in SIDES
    needs = [json.loads(line) for line in (tmp_path / "pocket/needs.jsonl").read_text().splitlines()]
    assert len(needs) == 20
    by_id = {post.id: post for posts in splits.values() for post in posts}
    for line in needs:
        assert list(line["needs"]) == by_id[line["id"]].keyphrases
        assert set(line["needs"].values()) <= {"image", "text", "both"}


def test_same_seed_same_posts_and_images():
    one, again, other = (make_posts(make_world(seed), seed, {"train": 50, "test": 20}) for seed in (7, 7, 8))
    assert one == again
    assert one["train"] != other["train"]
    images = [np.asarray(draw_image(post, 7)) for post in (one["test"][3], again["test"][3])]
    np.testing.assert_array_equal(*images)


def test_images_of_one_emblem_differ():
    first, second = (np.asarray(draw_emblem("star", "red", random.Random(seed)).resize((50, 50))) for seed in (0, 1))
    assert (first != second).any()


def test_chains_are_worded_in_several_ways(splits):
    facts = PostFacts({"fan": ("red", "comets")}, ("star", "red"), ())
    assert len({write_chain(facts, random.Random(seed)) for seed in range(40)}) > 6


def test_apportion_keeps_the_sum_and_the_proportions():
    assert apportion([1, 1, 2], 8) == [2, 2, 4]
    assert sum(apportion([0.3, 0.3, 0.4], 11)) == 11
