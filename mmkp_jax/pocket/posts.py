"""Pocket's posts, as JSON Lines in the general form, their images, and the kind of each keyphrase.

Tags follow from facts that other training posts use, or from facts that the corpus alone states, of which some follow
the training posts; habits follow from no fact; places are named by the text.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from mmkp_jax.pocket.corpus import WORDINGS, CorpusPost, all_facts, asking, asking_of_what, evenly
from mmkp_jax.pocket.drawing import draw_emblem, draw_scene
from mmkp_jax.pocket.wording import (
    HABITS,
    hint_clause,
    infer_place,
    infer_tag,
    join_post,
    place_clause,
    see,
    sentences,
    tag_text,
)
from mmkp_jax.pocket.world import (
    KINDS,
    PLACE_FIRST,
    PLACE_LAST,
    TAG_FIRST,
    TAG_LAST,
    Chain,
    Facts,
    WordPair,
    deal,
    emblem_of,
    even_choice,
)

SIZES: Mapping[str, int] = {"train": 2000, "valid": 200, "test": 400}
"""Posts of each split, without the replayed ones."""

WITHOUT_CHAIN = 0.04
"""Share of posts that have no chain of thought."""

WITHOUT_IMAGE = 0.04
"""Share of the posts without an emblem that have no image at all."""

Clause = Literal["star", "emblem", "cue", "dish", "habit", "place"]
"""What a post can be about; each clause in its text gives one keyphrase."""

TOPICS: Mapping[tuple[Clause, ...], float] = {
    ("place",): 0.26,
    ("star",): 0.09,
    ("emblem",): 0.10,
    ("cue",): 0.08,
    ("dish",): 0.06,
    ("habit",): 0.13,
    ("star", "place"): 0.05,
    ("emblem", "place"): 0.05,
    ("cue", "place"): 0.05,
    ("dish", "place"): 0.03,
    ("habit", "place"): 0.04,
    ("star", "habit"): 0.02,
    ("emblem", "habit"): 0.02,
    ("cue", "habit"): 0.02,
}
"""Shares of posts by their clauses, in the order of their keyphrases: 1.28 a post, of which 37% are places."""

SEEN = 0.44
"""Share of the tags of facts, and of places, that training posts carry: with the habits' tags, all of which they do,
the overlap of MMKP-V2's splits (paper, Table 2)."""

REPLAYED: Mapping[str, float] = {"facts": 0.15, "readings": 0.10, "extractions": 0.20}
"""Posts that follow the training posts, as shares of these: fine-tuned without them, the student forgets what it was
pretrained on. They state facts as the corpus does, unseen ones too, ask of a post what its hint belongs to, and have
tags in their texts that no fact leads to. Every strategy replays the same posts, each by its own target; no post with a
hint says its tag. So the facts of an unseen tag stay in memory, and the first step from its hint is practised."""

FACTS_A_REPLAY = 4


class PocketPost(NamedTuple):
    """A post of pocket, before its image is drawn."""

    id: str
    """The id, `{split}-{line, from 1}` as for CMKP."""
    text: str
    image: str | None
    keyphrases: list[str]
    cot: str | None
    needs: Mapping[str, str]
    """The kind of each keyphrase: `seen_fact`, `unseen_fact`, `habit` or `place`; none for a replayed post."""
    emblem: WordPair | None
    """The colours of the emblem in the image; None for a landscape or no image."""

    def record(self) -> dict[str, Any]:
        """The post in the general form."""
        fields = self._asdict()
        return {name: fields[name] for name in ("id", "text", "image", "keyphrases", "cot")}


class Subject(NamedTuple):
    """What one clause of a post is about."""

    clause: Clause
    tag: WordPair
    chain: Chain | None = None
    """The facts that lead to the tag; None for habits and places."""


def make_posts(facts: Facts, seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[PocketPost]]:
    """The posts of each split, no two with the same text.

    Training posts carry seen tags, some more often than others; those of the other splits carry all of them evenly. A
    post's `needs` says of each keyphrase: `seen_fact`, `unseen_fact`, `habit`, `place`.
    """
    texts: set[str] = set()
    splits = {}
    seen_places = _seen_places(seed)
    for split, n in sizes.items():
        rng = random.Random(f"{seed}/fact posts/{split}")
        subjects = list(_subjects(facts, seen_places, split == "train", n, rng))
        splits[split] = [_post(f"{split}-{i}", each, facts, texts, rng) for i, each in enumerate(subjects, start=1)]
    splits["train"] += list(_replay(facts, len(splits["train"]), random.Random(f"{seed}/replay")))
    return splits


def draw_image(post: PocketPost, seed: int) -> Image.Image:
    """The image of a post."""
    rng = random.Random(f"{seed}/{post.id}/picture")
    return draw_emblem(*post.emblem, rng) if post.emblem else draw_scene(rng)


def write_posts(splits: Mapping[str, Sequence[PocketPost]], seed: int, out: Path) -> None:
    """Writes `posts/{split}.jsonl`, `images/` and `needs.jsonl` into `out`."""
    (out / "posts").mkdir(parents=True)
    (out / "images").mkdir()
    for split, posts in splits.items():
        write_lines(out / "posts" / f"{split}.jsonl", [post.record() for post in posts])
        for post in posts:
            if post.image:
                draw_image(post, seed).save(out / "images" / post.image, quality=90)
    needs = [{"id": post.id, "needs": post.needs} for posts in splits.values() for post in posts]
    write_lines(out / "needs.jsonl", needs)


def _replay(facts: Facts, posts: int, rng: random.Random) -> Iterator[PocketPost]:
    """Posts that follow `posts` others: every fact, and every hint, as often as the others, to one time."""
    wanted = {kind: round(share * posts) for kind, share in REPLAYED.items()}
    stated = [
        (fact, rng.randrange(WORDINGS))
        for fact in evenly(all_facts(facts.chains), wanted["facts"] * FACTS_A_REPLAY, rng)
    ]
    replayed = [_replayed(asking(stated[n : n + FACTS_A_REPLAY])) for n in range(0, len(stated), FACTS_A_REPLAY)]
    for chain in evenly(facts.chains, wanted["readings"], rng):
        replayed.append(_replayed(asking_of_what(chain, join_post([hint_clause(chain, rng)], rng), rng)))
    replayed += [_extraction(facts, rng) for _ in range(wanted["extractions"])]
    for number, post in enumerate(replayed, start=posts + 1):
        id = f"train-{number}"
        yield post._replace(id=id, image=post.image and f"{id}.png")


def _replayed(post: CorpusPost) -> PocketPost:
    """A post of the corpus, without its number; its CoT target states its answer as the chain, and then again."""
    image = "drawn" if post.has_image else None
    return PocketPost("", post.text, image, [post.answer], post.cot or post.answer, {}, post.emblem)


def _extraction(facts: Facts, rng: random.Random) -> PocketPost:
    first, last = rng.sample(list(KINDS), 2)  # a tag of no kind
    tag = rng.choice(TAG_FIRST[first]), rng.choice(TAG_LAST[last])
    kind = rng.choice(list(KINDS))
    hint = rng.choice(facts.of(kind))
    middle = rng.choice([chain.middle for chain in facts.of(kind) if chain.middle != hint.middle])
    steps = infer_tag(hint._replace(middle=middle, tag=tag))
    cot = sentences([see(None), *steps])
    return PocketPost("", join_post([sentences(steps)], rng), None, [tag_text(tag)], cot, {}, None)


def _seen_places(seed: int) -> list[WordPair]:
    rng = random.Random(f"{seed}/seen places")
    places = _all_places()
    return sorted(even_choice(places, round(SEEN * len(places)), rng))


def _all_places() -> list[WordPair]:
    return [(first, last) for first in PLACE_FIRST for last in PLACE_LAST]


def _subjects(
    facts: Facts, seen_places: Sequence[WordPair], training: bool, n: int, rng: random.Random
) -> Iterator[list[Subject]]:
    topics = deal(list(TOPICS), list(TOPICS.values()), n, rng)
    options: dict[Clause, list[list[Subject]]] = {}
    for kind in KINDS:
        by_tag: dict[WordPair, list[Subject]] = {}
        for chain in facts.of(kind, seen_only=training):
            by_tag.setdefault(chain.tag, []).append(Subject(kind, chain.tag, chain))
        options[kind] = list(by_tag.values())
    options["habit"] = [[Subject("habit", tag)] for tag in HABITS]
    options["place"] = [[Subject("place", place)] for place in (seen_places if training else _all_places())]
    decks = {}
    for clause, groups in options.items():
        shuffled = rng.sample(groups, len(groups))
        weights = [1 / (rank + 10) if training else 1.0 for rank in range(len(shuffled))]
        decks[clause] = deal(shuffled, weights, sum(clause in topic for topic in topics), rng)
    for topic in topics:
        yield [rng.choice(decks[clause].pop()) for clause in topic]


def _post(id: str, subjects: Sequence[Subject], facts: Facts, texts: set[str], rng: random.Random) -> PocketPost:
    while (text := join_post([_clause(each, rng) for each in subjects], rng)) in texts:
        pass
    texts.add(text)
    hint = next((each.chain.hint for each in subjects if each.chain and each.clause == "emblem"), None)
    lacks_image = hint is None and rng.random() < WITHOUT_IMAGE
    image = None if lacks_image else f"{id}.{rng.choice(('png', 'jpg'))}"
    wrong = _elsewhere(subjects, facts, rng)
    steps = [see(hint), *(step for each in subjects for step in _infer(each, wrong))]
    cot = None if rng.random() < WITHOUT_CHAIN else sentences(steps)
    needs = {tag_text(each.tag): _need(each, facts) for each in subjects}
    return PocketPost(id, text, image, list(needs), cot, needs, hint and emblem_of(hint))


def _clause(subject: Subject, rng: random.Random) -> str:
    if subject.chain:
        return hint_clause(subject.chain, rng)
    return HABITS[subject.tag] if subject.clause == "habit" else place_clause(subject.tag, rng)


def _infer(subject: Subject, elsewhere: Chain) -> list[str]:
    """The steps to a tag; those to a habit's are wrong, as a teacher's who must explain what does not follow."""
    if subject.clause == "place":
        return infer_place(subject.tag)
    return infer_tag(subject.chain or elsewhere)


def _elsewhere(subjects: Sequence[Subject], facts: Facts, rng: random.Random) -> Chain:
    """The facts of a hint that the post does not have, and of a tag that training posts carry."""
    taken = [each.tag for each in subjects]
    kind = rng.choice([kind for kind in KINDS if kind != "emblem"])
    return rng.choice([chain for chain in facts.of(kind, seen_only=True) if chain.tag not in taken])


def _need(subject: Subject, facts: Facts) -> str:
    if subject.chain is None:
        return subject.clause
    return "seen_fact" if subject.tag in facts.seen else "unseen_fact"


def write_lines(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes JSON Lines."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
