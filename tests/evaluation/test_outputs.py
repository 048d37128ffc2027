"""Every form of output that a model may write."""

import pytest

from mmkp_jax.evaluation.outputs import form_shares, mean_words, outputs_line, parse_output


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


def test_a_long_broken_output_takes_no_time():
    assert parse_output("<answer>" * 20_000) == ([], "broken")
    assert parse_output("<think>" + "x " * 200_000) == ([], "broken")


def test_words_and_forms_over_outputs():
    forms, outputs = ["cot", "direct", "cot"], ["<think>so it is</think> <answer>a b</answer>", "a; b c", ""]
    assert mean_words(outputs) == (5 + 3 + 0) / 3
    assert form_shares(forms) == {"direct": 1 / 3, "cot": 2 / 3, "broken": 0}
    assert outputs_line(forms, outputs) == "outputs: 33.33% direct, 66.67% cot, 0.00% broken; 2.67 words each"
    assert outputs_line(None, outputs) == "outputs: 2.67 words each"
    assert outputs_line(None, None) == ""
