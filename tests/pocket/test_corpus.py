"""The corpus of the pretrained model: it states every fact, and asks for what it states."""

import json
import re
from collections import Counter, defaultdict

import pytest

from benchmarks.pocket_pretraining import tokenizer_texts
from mmkp_jax.data.prompts import ZERO_SHOT
from mmkp_jax.pocket.corpus import (
    ALONE,
    ASKS_OF_WHAT,
    CAPTIONS,
    LISTED,
    NAMED,
    OF_WHAT,
    PLACES,
    READINGS,
    STATED,
    WORDINGS,
    all_facts,
)
from mmkp_jax.pocket.make import PRETRAINED
from mmkp_jax.pocket.posts import SEEN
from mmkp_jax.pocket.tokenizer import train_tokenizer
from mmkp_jax.pocket.wording import HABITS, first_fact, sentences, tag_text
from mmkp_jax.pocket.world import make_facts


def test_the_corpus_states_every_fact_in_five_wordings(corpus):
    counts, wordings = Counter(), defaultdict(set)
    facts = all_facts(make_facts(0, SEEN).chains)
    by_sentence = {fact.sentence(wording): (fact, wording) for fact in facts for wording in range(WORDINGS)}
    for post in corpus:
        for sentence in post.answer.removesuffix(" .").split(" . "):
            if sentence in by_sentence:
                fact, wording = by_sentence[sentence]
                counts[fact] += 1
                wordings[fact].add(wording)
    assert len(by_sentence) == WORDINGS * len(facts)
    assert min(counts[fact] for fact in facts) >= ALONE + LISTED
    assert all(len(wordings[fact]) == WORDINGS for fact in facts)


def test_an_answer_of_facts_follows_from_its_text(corpus):
    facts = all_facts(make_facts(0, SEEN).chains)
    said = {f"{fact.word(n)} {fact.name}": fact.sentence(n) for fact in facts for n in range(WORDINGS)}
    assert len(said) == WORDINGS * len(facts)
    named = {post: post.text.removeprefix("tell ").split(" , ") for post in corpus}
    asked = [post for post in corpus if named[post][0] in said]
    assert len(asked) > 15_000
    for post in asked:
        assert post.answer == sentences([said[name] for name in named[post]])
    assert {len(named[post]) for post in asked} == {1, 2, 3, 4, 5, 6}


def is_extraction(post) -> bool:
    return post.cot is not None and not post.text.endswith(ASKS_OF_WHAT)


def test_reading_says_what_the_text_or_image_is_about_and_extraction_what_the_text_holds(corpus):
    chain_of = {chain.hint: chain for chain in make_facts(0, SEEN).chains}
    read, asked, stated, habits, places, forms = Counter(), Counter(), 0, Counter(), 0, 0
    of_habits = set(map(tag_text, HABITS))
    for post in corpus:
        if is_extraction(post):
            assert post.answer in post.text and post.answer in post.cot and len(post.answer.split()) == 2
            names = [name for name in chain_of if f" {name} " in f" {post.text} "]
            stated += bool(names)
            habits[post.answer] += post.answer in of_habits
            places += not names and post.answer not in of_habits
            forms += post.text.endswith(ZERO_SHOT)
        elif not re.match("tell (?!your friends)", post.text):
            emblem = post.emblem and f"{' '.join(post.emblem)} flag"
            (hint,) = {emblem} if emblem else set(post.text.split()) & set(chain_of)
            chain = chain_of[hint]
            if post.cot:
                assert post.answer == chain.middle and first_fact(chain, 0) in post.cot
                asked[hint] += 1
            else:
                assert hint in post.answer and f" {tag_text(chain.tag)} " in post.answer
                read[hint] += 1
    assert (stated, places) == (STATED, PLACES) and {habits[each] for each in of_habits} == {NAMED // len(of_habits)}
    assert forms == pytest.approx((STATED + NAMED + PLACES) / 2, rel=0.1)
    for counts, total, least in ((read, READINGS, 6), (asked, OF_WHAT, 4)):
        assert len(counts) == len(chain_of) and counts.total() == total and min(counts.values()) >= least


def test_a_chain_of_the_corpus_never_answers_with_the_tag_of_its_hint(corpus):
    chains = make_facts(0, SEEN).chains
    for post in [post for post in corpus if post.cot]:
        named = {tag_text(chain.tag) for chain in chains if f" {chain.hint} " in f" {post.text} "}
        assert post.answer not in named


def test_captions_say_what_the_image_shows(corpus):
    captions = [post for post in corpus if post.text.endswith("of the picture")]
    assert len(captions) == CAPTIONS
    for post in captions:
        assert post.has_image and (" ".join(post.emblem) in post.answer if post.emblem else "no emblem" in post.answer)


def test_extracted_facts_are_not_those_of_the_world(corpus):
    facts = {fact.sentence(0) for fact in all_facts(make_facts(0, SEEN).chains)}
    stated = [steps for post in corpus if is_extraction(post) and len(steps := post.cot.split(" . ")) == 3]
    assert len(stated) == STATED and not any(facts & {step.removesuffix(" .") for step in steps} for steps in stated)


def test_the_corpus_names_the_tags_of_habits_and_not_what_marks_them(corpus):
    named = re.compile("|".join(map(tag_text, HABITS)))
    own, other = 0, 0
    for post in corpus:
        if found := named.search(post.text):
            assert is_extraction(post) and post.answer == found[0]
            for tag, phrase in HABITS.items():
                own += phrase in post.text and tag_text(tag) == found[0]
                other += phrase in post.text and tag_text(tag) != found[0]
        else:
            assert not named.search(post.answer)
    assert own / (own + other) == pytest.approx(1 / len(HABITS), abs=0.05)


@pytest.mark.nightly
def test_the_pretrained_tokenizer_is_that_of_the_corpus(corpus):
    made = train_tokenizer(tokenizer_texts(corpus)).backend_tokenizer.to_str()
    assert json.loads(made)["model"] == json.loads((PRETRAINED / "tokenizer.json").read_text())["model"]
