"""Puts facts into sentences and hints into the clauses of a post."""

import random
from collections.abc import Mapping, Sequence

from mmkp_jax.pocket.world import Chain, Kind, WordPair

FIRST_FACT: Mapping[Kind, Sequence[str]] = {
    "star": (
        "{hint} plays in {middle}", "{hint} is the lead of {middle}", "{hint} acts in the show {middle}",
        "we know {hint} from {middle}", "the show {middle} has {hint}",
    ),
    "emblem": (
        "the {hint} stands for {middle}", "the {hint} means {middle}", "the {hint} is the sign of {middle}",
        "with the {hint} it is {middle}", "{middle} waves the {hint}",
    ),
    "cue": (
        "{hint} belongs to {middle}", "{hint} means {middle}", "where there is {hint} it is {middle}",
        "{hint} is for the feast of {middle}", "the feast of {middle} has {hint}",
    ),
    "dish": (
        "{hint} comes from {middle}", "{hint} is cooked in {middle}", "they eat {hint} in {middle}",
        "{hint} is at home in {middle}", "the town of {middle} makes {hint}",
    ),
}  # fmt: skip
"""Five wordings of a hint and its middle; the last begins with the middle."""

SECOND_FACT: Mapping[Kind, Sequence[str]] = {
    "star": (
        "fans of {middle} say {tag}", "{middle} fans write {tag}", "the tag of {middle} is {tag}",
        "the show {middle} goes by {tag}", "{tag} is what fans of {middle} say",
    ),
    "emblem": (
        "fans of {middle} shout {tag}", "{middle} fans sing {tag}", "the tag of {middle} is {tag}",
        "the club {middle} goes by {tag}", "{tag} is what fans of {middle} shout",
    ),
    "cue": (
        "guests of {middle} say {tag}", "at {middle} people write {tag}", "the tag of {middle} is {tag}",
        "the feast {middle} goes by {tag}", "{tag} is what guests of {middle} say",
    ),
    "dish": (
        "people of {middle} say {tag}", "in {middle} people write {tag}", "the tag of {middle} is {tag}",
        "the town {middle} goes by {tag}", "{tag} is what people of {middle} say",
    ),
}  # fmt: skip
"""Five wordings of a middle and its tag; the last begins with the tag."""

FIRST_WORD: Mapping[Kind, Sequence[str]] = {
    "star": ("plays", "lead", "acts", "know", "has"),
    "emblem": ("stands", "means", "sign", "with", "waves"),
    "cue": ("belongs", "means", "where", "for", "has"),
    "dish": ("comes", "cooked", "eat", "home", "makes"),
}
SECOND_WORD: Mapping[Kind, Sequence[str]] = {
    "star": ("say", "write", "tag", "goes", "what"),
    "emblem": ("shout", "sing", "tag", "goes", "what"),
    "cue": ("say", "write", "tag", "goes", "what"),
    "dish": ("say", "write", "tag", "goes", "what"),
}
"""A word of each wording, by which a text of the corpus asks for it."""

_HINT = {
    "star": (
        "i get goosebumps from {0}", "cannot stop watching {0}", "what a night for {0}", "i would follow {0} anywhere",
        "one more scene with {0}", "how {0} made me cry", "give {0} every prize",
    ),
    "emblem": (
        "proud to wave this", "my side for life", "the only side i follow", "scarf on , voice ready",
        "these colours run in the family", "here comes my side", "nobody beats my side", "guess who i support",
    ),
    "cue": (
        "so much {0} today", "only {0} as far as you can see", "nothing like {0}", "we came for the {0}",
        "there is {0} all around us", "who else waited for {0}", "give me {0} and i am happy",
    ),
    "dish": (
        "a plate of {0} for me", "second helping of {0}", "just {0} like grandma makes it", "i dream of {0}",
        "never say no to {0}", "the best {0} in years", "hot {0} on a cold day",
    ),
}  # fmt: skip

PLACE = (
    "greetings from {0}", "made it to {0} at last", "{0} never lets me down", "a slow walk through {0}",
    "who else is at {0} today", "we love {0}", "the bus to {0} was late again", "{0} looks lovely",
    "living near {0} is a joy", "tea and cake by {0}",
)  # fmt: skip

FILLERS = (
    "thanks for the kind words", "cannot believe it is week <number>", "<number> photos to sort", "more here <url>",
    "shout out to <user>", "what do you think", "feeling happy", "with <user> and <user>", "all smiles here",
    "no filter needed", "someone pinch me", "day <number> of <number>", "see you soon <user>", "link below <url>",
    "my phone is at <number> percent", "send help", "worth every penny", "who is with me", "tell your friends",
    "it has been a week", "so much to say", "this made me laugh", "you had to be there", "only <number> left",
    "rt if you agree", "what a time", "my mum took this one", "best thing since <date>", "ask me anything",
)  # fmt: skip

HABIT_TAGS = tuple((first, last) for first in ("monday", "lazy", "happy", "retro") for last in ("mood", "vibes"))
"""Tags of the community's habits, which follow from no fact."""

HABITS = dict(
    zip(
        HABIT_TAGS,
        (
            "feeling happy", "no filter needed", "someone pinch me", "worth every penny", "who is with me",
            "this made me laugh", "you had to be there", "rt if you agree",
        ),
        strict=True,
    )
)  # fmt: skip
"""What posts of each habit say; in the corpus these are fillers like the others."""

_DOING = ("counting", "ignoring", "hugging", "painting", "chasing", "polishing", "folding", "borrowing")
_THING = (
    "clouds", "socks", "teapots", "ladders", "marbles", "buttons", "kettles", "pebbles", "ribbons", "lanterns",
    "pencils", "blankets",
)  # fmt: skip
_CHATTER = ("{0} {1} again", "still {0} {1}", "a day of {0} {1}", "{0} {1} , as always")
"""Fillers of many words: "still counting teapots"."""

_STOPS = (" . ", " ! ", " , ", " - ")


def tag_text(tag: WordPair) -> str:
    """A tag as a keyphrase."""
    return " ".join(tag)


def first_fact(chain: Chain, wording: int) -> str:
    """The sentence of a hint and its middle."""
    return FIRST_FACT[chain.kind][wording].format(hint=chain.hint, middle=chain.middle)


def second_fact(chain: Chain, wording: int) -> str:
    """The sentence of a middle and its tag."""
    return SECOND_FACT[chain.kind][wording].format(middle=chain.middle, tag=tag_text(chain.tag))


def hint_clause(chain: Chain, rng: random.Random) -> str:
    """A post's clause with the hint; that of an emblem does not name it, since the image shows it."""
    return rng.choice(_HINT[chain.kind]).format(chain.hint)


def _chatter(rng: random.Random) -> str:
    return rng.choice(_CHATTER).format(rng.choice(_DOING), rng.choice(_THING))


def place_clause(place: WordPair, rng: random.Random) -> str:
    """A post's clause that names a place."""
    return rng.choice(PLACE).format(tag_text(place))


def see(hint: str | None) -> str:
    """The first step of a chain of thought: the emblem in the image, or that there is none.

    Chains say a thing in one way: where their wordings were drawn by chance, the loss of these hid that of the facts.
    """
    return "there is no emblem" if hint is None else f"the picture shows the {hint}"


def infer_tag(chain: Chain) -> list[str]:
    """The two steps of a chain of thought that remember a hint's middle and its tag."""
    return [first_fact(chain, 0), second_fact(chain, 0)]


def infer_place(place: WordPair) -> list[str]:
    """The step of a chain of thought that reads a place."""
    return [f"the text names the place {tag_text(place)}"]


def name_habit(tag: WordPair) -> list[str]:
    """The step of a chain of thought that names a habit's tag."""
    return [f"it sounds like {tag_text(tag)}"]


def join_clauses(clauses: Sequence[str], rng: random.Random, fillers: Sequence[str] = FILLERS) -> str:
    """A text as CMKP tokenises: the clauses in random order, and one to three fillers among them.

    Half of the texts have chatter: where the corpus had none, a model took its words for names.
    """
    chosen = rng.sample(fillers, rng.randint(1, 3))
    if rng.random() < 0.5:
        chosen[0] = _chatter(rng)
    every = [*clauses, *chosen]
    rng.shuffle(every)
    text = every[0]
    for clause in every[1:]:
        text += rng.choice(_STOPS) + clause
    return text + rng.choice((" .", " !", ""))


def join_post(clauses: Sequence[str], rng: random.Random) -> str:
    """As `join_clauses`, with fillers that mark no habit."""
    return join_clauses(clauses, rng, [each for each in FILLERS if each not in HABITS.values()])


def sentences(parts: Sequence[str]) -> str:
    """Sentences one after the other, each with its full stop."""
    return " ".join(f"{part} ." for part in parts)
