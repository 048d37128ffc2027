"""The test bed of a pretrained student: its facts, its corpus, and posts whose tags need them at MMKP-V2's rates."""

import hashlib
import json
import re
from collections import Counter, defaultdict

import pytest

from mmkp_jax.data.prompts import ZERO_SHOT, read_template
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.stemming import stem
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import load_tokenizer, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.tensors import WEIGHTS
from mmkp_jax.models.definition import flatten
from mmkp_jax.pocket.facts.corpus import ALONE, LISTED, PLACES, READINGS, STATED, WORDINGS, all_facts, make_corpus
from mmkp_jax.pocket.facts.make import FACTS, PRETRAINED, make_pocket_facts, questions, tokenizer_texts
from mmkp_jax.pocket.facts.posts import (
    FACTS_A_REPLAY,
    GUESSED_RIGHT,
    REPLAYED,
    SEEN,
    habit_of_marker,
    is_replayed,
    make_fact_posts,
)
from mmkp_jax.pocket.facts.wording import HABIT_TAGS, sentences, tag_text
from mmkp_jax.pocket.facts.world import count_facts, emblem_of, make_facts
from mmkp_jax.pocket.posts import SIZES
from mmkp_jax.pocket.rates import is_present, measure_rates
from mmkp_jax.pocket.tokenizer import train_tokenizer

FACT = ("seen_fact", "unseen_fact")


@pytest.fixture(scope="module", params=[0, 1], ids=["seed 0", "seed 1"])
def bed(request):
    """The facts and all posts of a seed, without those of the corpus."""
    facts = make_facts(request.param, SEEN)
    splits = make_fact_posts(facts, request.param)
    return facts, {split: [post for post in posts if not is_replayed(post)] for split, posts in splits.items()}


@pytest.fixture(scope="module")
def corpus():
    return make_corpus(make_facts(0, SEEN).chains, 0)


def test_rates_are_those_of_mmkp_v2_within_three_points(bed):
    records = {split: [post.record() for post in posts] for split, posts in bed[1].items()}
    rates = {split: measure_rates(posts, records["train"], stem) for split, posts in records.items()}
    assert {split: rate.posts for split, rate in rates.items()} == dict(SIZES)
    for split in ("train", "test"):
        assert rates[split].per_post == pytest.approx(1.29, abs=0.03)
        assert rates[split].present == pytest.approx(0.37, abs=0.03)
    assert rates["test"].overlap == pytest.approx(0.4492, abs=0.03)
    assert rates["valid"].overlap == pytest.approx(0.4492, abs=0.05)


def test_facts_are_the_same_for_any_seed_and_lead_to_one_tag():
    one, other = make_facts(0, SEEN), make_facts(1, SEEN)
    assert one.chains == other.chains and one.seen != other.seen
    assert count_facts(one.chains) == len(all_facts(one.chains)) == 588
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


def test_habits_follow_from_markers_and_their_chains_are_mostly_wrong(bed):
    habit = {" ".join(marker): tag_text(tag) for marker, tag in habit_of_marker().items()}
    guesses = Counter()
    for posts in bed[1].values():
        for post in posts:
            found = [tag for marker, tag in habit.items() if marker in post.text]
            assert found == [phrase for phrase, need in post.needs.items() if need == "habit"]
            if found and post.cot:
                (named,) = [tag for tag in map(tag_text, HABIT_TAGS) if tag in post.cot]
                guesses[named == found[0]] += 1
    assert guesses[True] / guesses.total() == pytest.approx(GUESSED_RIGHT, abs=0.08)


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


def test_reading_says_what_the_text_or_image_is_about_and_extraction_what_the_text_holds(corpus):
    chain_of = {chain.hint: chain for chain in make_facts(0, SEEN).chains}
    read, stated, places = Counter(), 0, 0
    for post in corpus:
        if post.text.endswith(ZERO_SHOT):
            assert post.answer in post.text and len(post.answer.split()) == 2
            names = [name for name in chain_of if f" {name} " in f" {post.text} "]
            stated += bool(names)
            places += not names
        elif not re.match("tell (?!your friends)", post.text):
            emblem = post.emblem and " ".join(reversed(post.emblem))
            (hint,) = {emblem} if emblem else set(post.text.split()) & set(chain_of)
            assert hint in post.answer and f" {tag_text(chain_of[hint].tag)} " in post.answer
            read[hint] += 1
    assert (stated, places) == (STATED, PLACES)
    assert len(read) == len(chain_of) and read.total() == READINGS and min(read.values()) >= 5


def test_extracted_facts_are_not_those_of_the_world(corpus):
    chains = {(chain.hint, chain.middle) for chain in make_facts(0, SEEN).chains}
    hints, middles = ({names[i] for names in chains} for i in (0, 1))
    pairs = [
        (hint, middle)
        for post in corpus
        if post.text.endswith(ZERO_SHOT)
        for hint in set(post.text.split()) & hints
        for middle in set(post.text.split()) & middles
    ]
    assert len(pairs) > STATED / 2
    assert sum(pair in chains for pair in pairs) < 0.05 * len(pairs)


def test_training_replays_every_fact_equally_often_under_either_target():
    facts = make_facts(0, SEEN)
    splits = make_fact_posts(facts, 0)
    replayed = splits["train"][SIZES["train"] :]
    assert len(replayed) == REPLAYED * SIZES["train"] and all(map(is_replayed, replayed))
    assert not any(is_replayed(post) for posts in splits.values() for post in posts[: SIZES["train"]])
    by_sentence = {fact.sentence(n): fact for fact in all_facts(facts.chains) for n in range(WORDINGS)}
    counts = Counter()
    for post in replayed:
        assert post.keyphrases == [post.cot]
        stated = post.cot.removesuffix(" .").split(" . ")
        assert len(stated) == FACTS_A_REPLAY
        counts.update(by_sentence[sentence] for sentence in stated)
    assert len(counts) == len(all_facts(facts.chains)) and max(counts.values()) - min(counts.values()) <= 1
    assert [post.id for post in splits["train"]] == [f"train-{n}" for n in range(1, len(splits["train"]) + 1)]


def test_the_corpus_holds_no_habit(corpus):
    habits = re.compile("|".join(tag_text(tag) for tag in HABIT_TAGS))
    assert not any(habits.search(f"{post.text} {post.answer}") for post in corpus)


def test_the_pretrained_model_loads_and_reads_every_name_as_one_token():
    folder = open_folder(str(PRETRAINED))
    params = flatten(load_params(folder, define(folder.config).shapes()))
    assert 1e6 < sum(leaf.size for leaf in params.values()) < 8e6
    template = read_template(load_tokenizer(folder), image_token=folder.config["image_token_id"])
    for chain in make_facts(0, SEEN).chains:
        for name in (chain.middle, *chain.hint.split(), *chain.tag):
            assert len(template.plain.encode(f" {name}").ids) == 1, name


@pytest.mark.nightly
def test_the_pretrained_tokenizer_is_that_of_the_corpus(corpus):
    made = train_tokenizer(tokenizer_texts(corpus)).backend_tokenizer.to_str()
    assert json.loads(made)["model"] == json.loads((PRETRAINED / "tokenizer.json").read_text())["model"]


def test_without_weights_it_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr("mmkp_jax.pocket.facts.make.PRETRAINED", tmp_path / "none")
    with pytest.raises(InputError, match=r"no pretrained weights.*benchmarks\.pocket_pretraining"):
        make_pocket_facts(tmp_path / "out")


def test_the_folder_is_made_once_and_the_same_for_a_seed(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / WEIGHTS).write_bytes(b"weights")
    monkeypatch.setattr("mmkp_jax.pocket.facts.make.PRETRAINED", weights)

    def digests(name):
        make_pocket_facts(tmp_path / name, sizes={"train": 20, "valid": 2, "test": 4})
        files = (file for file in (tmp_path / name).rglob("*") if file.is_file())
        return {str(f.relative_to(tmp_path / name)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    made = digests("one")
    assert made == digests("two")
    before = (tmp_path / "one" / FACTS).stat().st_mtime_ns
    assert digests("one") == made and (tmp_path / "one" / FACTS).stat().st_mtime_ns == before
    asked = (tmp_path / "one" / FACTS).read_text().splitlines()
    assert len(asked) == len(questions(make_facts(0, SEEN).chains)) == 588
