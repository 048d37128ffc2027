import pytest

from mmkp_jax.data.posts import Record
from mmkp_jax.teacher.chains import Gates, Rejected, histogram, read_keyphrases

RECORD = Record("a", "the eras tour was everything", b"", 0, 0, ("taylor swift", "concerts"), None)


def gate(answer, **gates):
    """The chain, or what held it back."""
    try:
        return Gates(**gates).chain(answer, RECORD)
    except Rejected as error:
        return f"rejected by {error.gate}"


def test_a_chain_is_the_answer_without_the_tags_around_it():
    assert gate(" It is her tour. ") == "It is her tour."
    assert gate("<think>It is her tour.</think>") == "It is her tour."


@pytest.mark.parametrize(
    "answer",
    [
        "<think>\nOkay.\n</think>\n\nThe chain.",
        "Okay.\n</think>\n\nThe chain.",
        "<think></think>The chain.",
        " <think> </think> The chain. ",
    ],
)
def test_a_thinking_models_chain_is_what_follows_its_thoughts(answer):
    assert gate(answer) == "The chain."
    assert gate(f"{answer}<answer>concerts; taylor swift</answer>", match="exact") == "The chain."
    assert read_keyphrases(answer.replace("The chain.", "taylor swift; tour")) == ["taylor swift", "tour"]


@pytest.mark.parametrize(
    "answer",
    ["<think>It is", "It is </think>", "It <answer>is</answer>", "Say <think>it</think> so", "a</think>b</think>c"],
)
def test_a_chain_that_would_end_its_own_tag_is_left_out(answer):
    assert gate(answer) == "rejected by tags"


def test_length_is_counted_in_words():
    assert gate("<think> </think>") == "rejected by length"
    assert gate("one two", min_words=2, max_words=2) == "one two"
    assert gate("one two", min_words=3) == gate("one two", max_words=1) == "rejected by length"


@pytest.mark.parametrize(
    ("chain", "any_", "all_"),
    [
        ("Taylor Swift gave a concert.", True, True),  # up to endings and case
        ("A #TaylorSwift evening, a Swift Taylor.", False, False),
        ("A concert, then.", True, False),
        ("Preconcerts are no such thing.", False, False),
    ],
)
def test_keyphrases_are_mentioned_word_by_word(chain, any_, all_):
    assert (gate(chain, mentions="any") == chain) is any_
    assert (gate(chain, mentions="all") == chain) is all_


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Taylor Swift; concert", "exact all any"),
        ("concerts; taylor swift; music", "all any"),
        ("taylor swift", "any"),
        ("music", ""),
        ("", ""),
    ],
)
def test_a_hidden_answer_must_match(given, kept):
    for match in ("exact", "all", "any"):
        chain = gate(f"It is her tour. <answer>{given}</answer>", match=match)
        assert chain == ("It is her tour." if match in kept.split() else "rejected by answer")
    assert gate("It is her tour.", match="any") == "rejected by answer"


def test_hashtags_come_out_clean():
    assert read_keyphrases("Taylor Swift; #eras tour; taylor swift;") == ["taylor swift", "eras tour"]
    for answer in ("none", "None.", " ; ", "Here you are:\ntaylor swift", "<answer>x</answer>"):
        with pytest.raises(Rejected):
            read_keyphrases(answer)


def test_a_histogram_counts_everything_in_round_steps():
    lengths = [3, 7, 12, 12, 48, 95]
    rows = histogram(lengths)
    assert sum(count for *_, count in rows) == 6 and len(rows) <= 10
    assert all(sum(low <= each <= high for each in lengths) == count for low, high, count in rows)
    assert histogram([5]) == [(5, 5, 1)] and histogram([]) == []
