"""Every form of output that a model may write."""

import pytest

from mmkp_jax.evaluation.outputs import form_shares, mean_words, merge_outputs, outputs_line, parse_output


@pytest.mark.parametrize(
    "text, keyphrases, form",
    [
        ("mufc; Premier League", ["mufc", "premier league"], "direct"),
        (" a ;; b ; ", ["a", "b"], "direct"),
        ("", [], "direct"),
        ("a < b; c", ["a < b", "c"], "direct"),
        ("<think>why</think><answer>a; B</answer>", ["a", "b"], "cot"),
        ("<think>why</think> <answer> a;b </answer>\n", ["a", "b"], "cot"),
        ("<think>why\nso</think>\n<answer>a;\nb</answer>", ["a", "b"], "cot"),
        ("<answer>a</answer>", ["a"], "cot"),
        ("<think>why</think><answer></answer>", [], "cot"),
        ("<think>never closed <answer>a</answer>", ["a"], "cot"),
        ("<think>x</think><answer>a</answer><answer>b</answer>", ["b"], "cot"),
        ("<think>x</think><answer>a</answer><answer>b", ["a"], "cot"),  # the last complete one
        ("<think>x</think><answer>a<answer>b</answer>", ["b"], "cot"),
        ("<answer>a</answer></answer>", ["a"], "cot"),
        ("<think>why the user", [], "broken"),
        ("<think>why</think>", [], "broken"),
        ("<think>why</think> a; b", [], "broken"),
        ("<think>why</think><answer>a; b", [], "broken"),
        ("<answer>a; b", [], "broken"),
    ],
)
def test_keyphrases_of_an_output(text, keyphrases, form):
    assert parse_output(text) == (keyphrases, form)


LAKE = ["lakeside market", "fresh bread"]


@pytest.mark.parametrize(
    "text, lenient",
    [
        ("1. Lakeside Market\n2. fresh bread", LAKE),
        ("lakeside market, fresh bread", LAKE),
        ("Here are some keyphrases:\n\n1) lakeside market\n2) fresh bread\n\nI hope this helps!", LAKE),
        ("- lakeside market\n- fresh bread", LAKE),
        ("• lakeside market\n• fresh bread", LAKE),
        ("lakeside market\nfresh bread", LAKE),
        ("1. lakeside market; 2. fresh bread", LAKE),
        ("Keyphrases: lakeside market; fresh bread", LAKE),
        ("**Keywords:** lakeside market, fresh bread.", LAKE),
        ("Keyphrases:\n1. **lakeside market**\n2. **fresh bread**", LAKE),
        ('["lakeside market", "fresh bread"]', LAKE),
        ('```json\n{"keyphrases": ["lakeside market", "fresh bread"]}\n```', LAKE),
        ("['lakeside market', 'fresh bread']", LAKE),
        ('"lakeside market", "fresh bread"', LAKE),
        ("#lake #bread", ["lake", "bread"]),
        ("#lake, #bread, #Lake", ["lake", "bread"]),
        ("lakeside market; fresh\nbread", ["lakeside market", "fresh", "bread"]),
        ("<think>why</think><answer>1. lakeside market\n2. fresh bread</answer>", LAKE),
        ("<answer>lakeside market, fresh bread</answer>", LAKE),
    ],
)
def test_a_list_in_another_form_has_the_form_other_and_only_the_lenient_reading_splits_it(text, lenient):
    inside = text.removesuffix("</answer>").rpartition("<answer>")[2]
    strict = [each for part in inside.split(";") if (each := part.strip().lower())]
    assert parse_output(text) == (strict, "other")
    assert parse_output(text, "lenient") == (lenient, "other")


@pytest.mark.parametrize(
    "text",
    [
        "lakeside market",
        "1. FC Köln",
        "- lakeside market",
        "#sunrise",
        '"lakeside market"',
        "10,000 steps",
        "3.5 mm; 4.5 mm",
        "a - b",
        "#lake; #bread",  # a list as asked for: the marks may belong to the keyphrases, as in the data
        'paris, texas; "fresh bread"',
        "a;\nb",
        "The lake was quite calm today and the people there were happy, so they walked slowly around it again.",
        "The lake was quite calm today and the people there were happy.\nThey walked around it once more and then went",
        "[1, 2; {}",
    ],
)
def test_both_readings_agree_on_all_other_outputs(text):
    assert parse_output(text)[1] == "direct" and parse_output(text, "lenient") == parse_output(text)
    tagged = f"<think>why</think><answer>{text}</answer>"
    assert parse_output(tagged) == parse_output(tagged, "lenient") == (parse_output(text)[0], "cot")


def test_keyphrases_are_predicted_once():
    assert parse_output("red c d; Red c d; blue; red c d") == (["red c d", "blue"], "direct")
    assert parse_output("1. a\n2. b\n3. A", "lenient")[0] == ["a", "b"]


def test_keyphrases_of_more_outputs_come_first():
    outputs = ["b, a", "a\nc", "c; c"]
    assert merge_outputs(outputs) == (["b, a", "a\nc", "c"], "other")
    assert merge_outputs(outputs, "lenient") == (["a", "c", "b"], "other")
    assert merge_outputs(["b; a"]) == (["b", "a"], "direct")


def test_a_nested_list_is_no_list_of_keyphrases():
    deep = "[" * 100_000 + "]" * 100_000
    assert parse_output(deep, "lenient") == ([deep], "direct")


def test_a_long_broken_output_predicts_nothing():
    assert parse_output("<answer>" * 20_000) == ([], "broken")
    assert parse_output("<think>" + "x " * 200_000) == ([], "broken")


@pytest.mark.parametrize("part", [" ", "#", "``` ", ", ", "1. ", "key", "- a\n", "*", "(1"])
def test_a_long_answer_of_one_mark_takes_no_time(part):
    parse_output(part * 100_000 + ".")


def test_words_and_forms_over_outputs():
    forms, outputs = ["cot", "direct", "cot"], ["<think>so it is</think> <answer>a b</answer>", "a; b c", ""]
    assert mean_words(outputs) == (5 + 3 + 0) / 3
    assert form_shares(forms) == {"direct": 1 / 3, "cot": 2 / 3, "other": 0, "broken": 0}
    assert (
        outputs_line(forms, outputs) == "outputs: 33.33% direct, 66.67% cot, 0.00% other, 0.00% broken; 2.67 words each"
    )
    assert outputs_line(None, outputs) == "outputs: 2.67 words each"
    assert outputs_line(None, None) == ""
