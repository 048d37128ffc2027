"""What is said of a run's updates, and of who has a chain of thought."""

import pytest

from mmkp_jax.data.run_lines import chains_line, updates_line

PAPER = "; the paper: 172,575 updates of 1 post (5 epochs of MMKP-V2 at batch size 1)"


def test_updates_are_next_to_the_papers():
    assert updates_line(3600, 47.94) == f"3,600 updates of 47.9 posts{PAPER}"
    assert updates_line(172_575, 1) == f"172,575 updates of 1 post{PAPER}"


@pytest.mark.parametrize(
    "strategy, with_cot, line",
    [
        ("sft", 0, ""),
        ("zeroshot", 0, ""),
        (
            "dyncot",
            0,
            "WARNING: none of 15 training posts has a chain of thought, so Dynamic CoT trains as SFT does, "
            "whatever γ is",
        ),
        ("multitask", 0, "WARNING: none of 15 training posts has a chain of thought, so multi-task trains as SFT does"),
        (
            "dyncot",
            3,
            "WARNING: few posts have a chain of thought: 3 of 15 training posts (20.0%); "
            "the others train on their keyphrases",
        ),
        (
            "dyncot",
            12,
            "with a chain of thought: 12 of 15 training posts (80.0%); the others train on their keyphrases",
        ),
        ("cot", 12, "with a chain of thought: 12 of 15 training posts (80.0%); the others are not trained on"),
    ],
)
def test_chains_of_thought_are_counted_and_a_lack_of_them_is_loud(strategy, with_cot, line):
    assert chains_line(strategy, 15, with_cot) == line
