"""Pocket's posts: the same for a seed, at MMKP-V2's rates, and their tags follow from facts, habits and places."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmkp_jax.evaluation.stemming import stem
from mmkp_jax.pocket.corpus import ASKS_OF_WHAT, WORDINGS, all_facts
from mmkp_jax.pocket.drawing import SIDES, draw_emblem
from mmkp_jax.pocket.posts import (
    FACTS_A_REPLAY,
    REPLAYED,
    SEEN,
    SIZES,
    draw_image,
    make_posts,
    write_posts,
)
from mmkp_jax.pocket.wording import HABITS, first_fact, infer_tag, tag_text
from mmkp_jax.pocket.world import RGB_OF_COLOUR, apportion, emblem_of, make_facts
from tests.support.rates import is_present, measure_rates

FACT = ("seen_fact", "unseen_fact")


REPLAYED_OF_12 = sum(round(12 * share) for share in REPLAYED.values())
"""Posts that are replayed after 12 others."""


def is_replayed(post) -> bool:
    """Whether the post is of the corpus, and so about no keyphrase."""
    return not post.needs


@pytest.fixture(scope="module", params=[0, 1], ids=["seed 0", "seed 1"])
def bed(request):
    """The facts and all posts of a seed, without those of the corpus."""
    facts = make_facts(request.param, SEEN)
    splits = make_posts(facts, request.param)
    return facts, {split: [post for post in posts if not is_replayed(post)] for split, posts in splits.items()}


def test_rates_are_those_of_mmkp_v2_within_three_points(bed):
    """Keyphrases a post and overlap are those of the paper's Table 2, that of present ones is CMKP's."""
    records = {split: [post.record() for post in posts] for split, posts in bed[1].items()}
    rates = {split: measure_rates(posts, records["train"], stem) for split, posts in records.items()}
    assert {split: rate.posts for split, rate in rates.items()} == dict(SIZES)
    for split in ("train", "test"):
        assert rates[split].per_post == pytest.approx(1.29, abs=0.03)
        assert rates[split].present == pytest.approx(0.37, abs=0.03)
        assert 0.02 < rates[split].without_cot < 0.07
        assert 0.005 < rates[split].without_image < 0.05
    assert rates["test"].overlap == pytest.approx(0.4492, abs=0.03)
    assert rates["valid"].overlap == pytest.approx(0.4492, abs=0.05)


def test_facts_are_the_same_for_any_seed_and_lead_to_one_tag():
    one, other = make_facts(0, SEEN), make_facts(1, SEEN)
    assert one.chains == other.chains and one.seen != other.seen
    assert len(all_facts(one.chains)) == 564
    assert len({chain.hint for chain in one.chains}) == len(one.chains)
    assert len(dict((chain.middle, chain.tag) for chain in one.chains)) == len({chain.tag for chain in one.chains})


def test_stemming_keeps_tags_and_names_apart():
    chains = make_facts(0, SEEN).chains
    for words in ({tag_text(chain.tag) for chain in chains}, {chain.hint for chain in chains}):
        assert len({" ".join(map(stem, each.split())) for each in words}) == len(words)


def test_every_word_of_an_unseen_tag_is_in_seen_ones(bed):
    facts, _ = bed
    known = {word for tag in facts.seen for word in tag}
    assert all(word in known for chain in facts.chains for word in chain.tag)


def test_tags_follow_from_a_hint_in_text_or_image_by_two_facts(bed):
    facts, splits = bed
    tag_of = {chain.hint: tag_text(chain.tag) for chain in facts.chains}
    by_emblem = {emblem_of(chain.hint): tag_text(chain.tag) for chain in facts.chains if chain.kind == "emblem"}
    for post in splits["test"]:
        found = {tag_of[word] for word in post.text.split() if word in tag_of}
        found |= {by_emblem[post.emblem]} if post.emblem else set()
        assert found == {phrase for phrase, need in post.needs.items() if need in FACT}, post.id


def test_training_never_names_an_unseen_tag(bed):
    facts, splits = bed
    unseen = {tag_text(chain.tag) for chain in facts.chains} - {tag_text(tag) for tag in facts.seen}
    for post in splits["train"]:
        assert "unseen_fact" not in post.needs.values()
        assert not any(phrase in f"{post.text} {post.cot}" for phrase in unseen)
    assert unseen == {p for post in splits["test"] for p, need in post.needs.items() if need == "unseen_fact"}


def test_texts_name_places_alone(bed):
    for post in bed[1]["test"]:
        for phrase, need in post.needs.items():
            assert is_present(phrase, post.text, stem) == (need == "place")


def test_chains_state_both_facts_as_the_corpus_does(bed, corpus):
    _, splits = bed
    known = {sentence for post in corpus for sentence in post.answer.removesuffix(" .").split(" . ")}
    # the first step is about the image
    needed = [post for post in splits["train"] if post.cot and set(post.needs.values()) <= set(FACT)]
    assert needed and all(step in known for post in needed for step in post.cot.removesuffix(" .").split(" . ")[1:])


def test_habits_follow_from_a_phrase_and_their_chains_are_about_a_hint_that_the_post_has_not(bed):
    facts, splits = bed
    of_step = {first_fact(chain, 0): chain for chain in facts.chains}
    for posts in splits.values():
        for post in posts:
            found = [tag_text(tag) for tag, phrase in HABITS.items() if phrase in post.text]
            assert found == [phrase for phrase, need in post.needs.items() if need == "habit"]
            if found and post.cot:
                assert not any(tag in post.cot for tag in map(tag_text, HABITS))
                stated = [of_step[step] for step in post.cot.split(" . ") if step in of_step]
                (wrong,) = [chain for chain in stated if tag_text(chain.tag) not in post.keyphrases]
                assert wrong.hint not in post.text and wrong.tag in facts.seen


def test_training_replays_facts_readings_and_extractions_under_either_target():
    facts = make_facts(0, SEEN)
    splits = make_posts(facts, 0)
    posts, replayed = splits["train"][: SIZES["train"]], splits["train"][SIZES["train"] :]
    assert len(replayed) == sum(round(each * SIZES["train"]) for each in REPLAYED.values()) and all(
        map(is_replayed, replayed)
    )
    assert not any(is_replayed(post) for part in (posts, splits["valid"], splits["test"]) for post in part)
    assert [post.id for post in splits["train"]] == [f"train-{n}" for n in range(1, len(splits["train"]) + 1)]
    of_hint = {chain.hint: chain for chain in facts.chains}
    by_emblem = {emblem_of(chain.hint): chain for chain in facts.chains if chain.kind == "emblem"}
    by_sentence = {fact.sentence(n): fact for fact in all_facts(facts.chains) for n in range(WORDINGS)}
    world_tags = {tag_text(chain.tag) for chain in facts.chains}
    stated, read, extracted = Counter(), Counter(), 0
    for post in replayed:
        steps = post.cot.removesuffix(" .").split(" . ")
        assert not world_tags & set(post.keyphrases)
        if post.text.endswith(ASKS_OF_WHAT):
            (chain,) = [of_hint[word] for word in post.text.split() if word in of_hint] or [by_emblem[post.emblem]]
            assert post.keyphrases == [chain.middle] and steps[1:] == infer_tag(chain)[:1]
            read[chain] += 1
        elif post.keyphrases == [post.cot]:
            assert len(steps) == FACTS_A_REPLAY
            stated.update(by_sentence[step] for step in steps)
        else:
            (tag,) = post.keyphrases
            assert is_present(tag, post.text, stem) and tag in steps[-1]
            assert not set(steps) & set(by_sentence)
            extracted += 1
    wanted = {kind: round(share * SIZES["train"]) for kind, share in REPLAYED.items()}
    assert stated.total() == FACTS_A_REPLAY * wanted["facts"] and read.total() == wanted["readings"]
    for counts, every in ((stated, all_facts(facts.chains)), (read, facts.chains)):
        assert max(counts[each] for each in every) - min(counts[each] for each in every) <= 1
    assert extracted == wanted["extractions"]


def look(image: Image.Image) -> tuple[str, ...]:
    """The colours of an emblem, from its pixels alone, in the world's order."""
    pixel_N3 = np.asarray(image).astype(float).reshape(-1, 3)
    shown_N3 = pixel_N3[(np.ptp(pixel_N3, axis=1) > 60) | (pixel_N3.max(axis=1) < 40)]
    wanted_C3 = np.array(list(RGB_OF_COLOUR.values()), float)
    nearest_N = np.linalg.norm(shown_N3[:, None] - wanted_C3, axis=-1).argmin(axis=1)
    first_two = np.bincount(nearest_N, minlength=len(wanted_C3)).argsort()[-2:]
    return tuple(list(RGB_OF_COLOUR)[number] for number in sorted(first_two))


def test_no_two_posts_have_the_same_text(bed):
    texts = [post.text for posts in bed[1].values() for post in posts]
    assert len(set(texts)) == len(texts)
    assert all(text == " ".join(text.lower().split()) for text in texts)


def test_images_show_the_emblem_of_a_post_or_a_landscape(bed):
    _, splits = bed
    for post in [post for post in splits["test"] if post.emblem][:80]:
        assert look(draw_image(post, seed=5)) == post.emblem, post.id
    assert all(post.image or not post.emblem for posts in splits.values() for post in posts)


def test_a_chain_says_what_the_image_shows_and_ends_in_each_keyphrase_but_habits(bed):
    for post in bed[1]["train"]:
        if post.cot:
            named = [phrase for phrase, need in post.needs.items() if need != "habit"]
            ends = [post.cot.rfind(f"{phrase} .") for phrase in named]
            assert all(end > 0 for end in ends) and ends == sorted(ends), post.cot
            assert all(word in post.cot for word in post.emblem or ("emblem",))


def test_writes_the_general_form(tmp_path):
    sizes = {"train": 12, "test": 8}
    splits = make_posts(make_facts(3, SEEN), 3, sizes)
    write_posts(splits, 3, tmp_path / "pocket")
    records = [json.loads(line) for line in (tmp_path / "pocket/posts/train.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"train-{i}" for i in range(1, 13 + REPLAYED_OF_12)]
    for record in records:
        assert list(record) == ["id", "text", "image", "keyphrases", "cot"]
        if record["image"]:
            with Image.open(tmp_path / "pocket/images" / record["image"]) as image:
                assert image.mode == "RGB" and image.size in SIDES
    needs = [json.loads(line) for line in (tmp_path / "pocket/needs.jsonl").read_text().splitlines()]
    assert len(needs) == 20 + REPLAYED_OF_12
    by_id = {post.id: post for posts in splits.values() for post in posts}
    for line in needs:
        post = by_id[line["id"]]
        assert list(line["needs"]) == ([] if is_replayed(post) else post.keyphrases)
        assert set(line["needs"].values()) <= {*FACT, "habit", "place"}


def test_same_seed_same_posts_and_images():
    one, again, other = (make_posts(make_facts(seed, SEEN), seed, {"train": 50, "test": 20}) for seed in (7, 7, 8))
    assert one == again
    assert one["train"] != other["train"]
    images = [np.asarray(draw_image(post, 7)) for post in (one["test"][3], again["test"][3])]
    np.testing.assert_array_equal(*images)


def test_images_of_one_emblem_differ():
    first, second = (np.asarray(draw_emblem("red", "blue", random.Random(seed)).resize((50, 50))) for seed in (0, 1))
    assert (first != second).any()


def test_apportion_keeps_the_sum_and_the_proportions():
    assert apportion([1, 1, 2], 8) == [2, 2, 4]
    assert sum(apportion([0.3, 0.3, 0.4], 11)) == 11
