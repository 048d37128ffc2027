"""Puts a post's facts into words: its text, and the chain of thought that leads to its keyphrases."""

import random
from typing import NamedTuple

from mmkp_jax.pocket.world import CLASH_CUES, CLUB_OF_SHAPE, GATHERING_CUES, SEASON_CUES, Clause, WordPair


class PostFacts(NamedTuple):
    """The content of a post."""

    pairs: dict[Clause, WordPair]
    """The keyphrase of each clause as its two words, in the order of the keyphrases."""
    emblem: WordPair | None
    """Shape and colour of the emblem in the image; None for a landscape or no image."""
    cues: tuple[str, ...]
    """The words that hint at what the text does not name: a clash, or a season and a gathering."""


_FAN = (
    "proud to wear this badge", "my side for life", "the only side i follow", "scarf on , voice ready",
    "these colours run in the family", "here comes my side", "nobody beats my side", "guess who i support",
    "my badge , my heart", "still in love with my side",
)  # fmt: skip
_CLASH = (
    "{0} is all we talk about", "nothing beats {0}", "here for {0}", "ready for {0}", "the wait for {0} is over",
    "{0} gives me goosebumps", "dreaming of {0}", "one more sleep until {0}",
)  # fmt: skip
_EVENT = (
    "{0} and {1} , what a mix", "{0} , {1} and good company", "we came for {1} and got {0} too",
    "{1} with {0} all around", "nothing like {0} and {1}", "give me {1} , give me {0}", "all {0} and {1} for us",
)  # fmt: skip
_PLACE = (
    "greetings from {0}", "made it to {0} at last", "{0} never lets me down", "a slow walk through {0}",
    "who else is at {0} today", "we love {0}", "the bus to {0} was late again", "{0} looks lovely",
    "living near {0} is a joy", "tea and cake by {0}",
)  # fmt: skip
_FILLERS = (
    "thanks for the kind words", "cannot believe it is week <number>", "<number> photos to sort", "more here <url>",
    "shout out to <user>", "what do you think", "feeling happy", "with <user> and <user>", "all smiles here",
    "no filter needed", "someone pinch me", "day <number> of <number>", "see you soon <user>", "link below <url>",
    "my phone is at <number> percent", "send help", "worth every penny", "who is with me", "tell your friends",
    "it has been a week", "so much to say", "this made me laugh", "you had to be there", "only <number> left",
    "rt if you agree", "what a time", "my mum took this one", "best thing since <date>", "coffee first",
    "i regret nothing", "ask me anything", "please be kind", "that is the post", "thread <number> / <number>",
)  # fmt: skip
_STOPS = (" . ", " ! ", " , ", " - ")


def write_post_text(facts: PostFacts, rng: random.Random) -> str:
    """A post's text as CMKP tokenises: lower-case words and punctuation, separated by single spaces."""
    clauses = [_write_clause(clause, facts, rng) for clause in facts.pairs]
    clauses += rng.sample(_FILLERS, rng.randint(1, 3))
    rng.shuffle(clauses)
    text = clauses[0]
    for clause in clauses[1:]:
        text += rng.choice(_STOPS) + clause
    return text + rng.choice((" .", " !", ""))


def write_chain(facts: PostFacts, rng: random.Random) -> str:
    """A chain of thought: what the image shows, what the text says, and what follows for each keyphrase."""
    steps = [_see(facts.emblem, rng), *(_infer(clause, facts, rng) for clause in facts.pairs)]
    return " ".join(steps)


def _write_clause(clause: Clause, facts: PostFacts, rng: random.Random) -> str:
    if clause == "fan":
        return rng.choice(_FAN)
    if clause == "place":
        return rng.choice(_PLACE).format(" ".join(facts.pairs["place"]))
    return rng.choice(_CLASH if clause == "clash" else _EVENT).format(*facts.cues)


def _see(emblem: WordPair | None, rng: random.Random) -> str:
    if emblem is None:
        return rng.choice(("no emblem here .", "there is no emblem .", "i see no emblem ."))
    shape, colour = emblem
    seen = rng.choice(
        (
            "the picture shows a {shape} and it is {colour} .",
            "the emblem is a {shape} and its colour is {colour} .",
            "i see a {shape} , and the {shape} is {colour} .",
        )
    )
    badge = rng.choice(("the {shape} stands for the {club} .", "a {shape} means the {club} ."))
    return f"{seen} {badge}".format(shape=shape, colour=colour, club=CLUB_OF_SHAPE[shape])


def _infer(clause: Clause, facts: PostFacts, rng: random.Random) -> str:
    first, last = facts.pairs[clause]
    if clause == "fan":
        step = rng.choice(("a fan writes , so the tag is", "they support this side :"))
    elif clause == "place":
        step = rng.choice(("the text names the place", "the place in the text is"))
    elif clause == "clash":
        step = rng.choice(("{0} speaks of the {last} , so it is", "{0} means the {last} :"))
    else:
        step = rng.choice(("{0} speaks of {first} and {1} of the {last} :", "{0} means {first} , {1} means {last} :"))
    return f"{step.format(*facts.cues, first=first, last=last)} {first} {last} ."


def choose_cues(pairs: dict[Clause, WordPair], rng: random.Random) -> tuple[str, ...]:
    """Words that hint at a clash, or at an event."""
    if "clash" in pairs:
        return (rng.choice(CLASH_CUES[pairs["clash"][1]]),)
    if "event" in pairs:
        season, gathering = pairs["event"]
        return rng.choice(SEASON_CUES[season]), rng.choice(GATHERING_CUES[gathering])
    return ()
