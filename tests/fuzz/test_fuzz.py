"""Every reader takes or refuses, in one line, whatever a file or an endpoint can hold."""

import pytest

from tests.fuzz.harness import Target, fuzz, peak_memory
from tests.fuzz.targets import TARGETS

INPUTS = 150
"""For a target of share 1; `benchmarks/soak_fuzz.py` feeds a million in all."""
MEMORY = 1 << 30
"""Bytes by which a target may raise what the process holds at most."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_reader_takes_or_refuses_damaged_input(target: Target):
    before = peak_memory()
    outcome = fuzz(target, range(max(20, round(INPUTS * target.share))))
    assert not outcome.failed, "\n\n".join(f"input {each.number}: {each.what}" for each in outcome.failures)
    assert outcome.refused < outcome.inputs or not target.refusals, "no input was taken: the corpus is no valid input"
    assert peak_memory() - before < MEMORY


def test_an_exception_that_is_no_refusal_is_a_failure():
    def feed(data: bytes, _: object) -> None:
        data.decode("ascii")

    outcome = fuzz(Target("ascii", lambda _: [b"\xff"], feed), range(5))
    assert outcome.failed and "UnicodeDecodeError" in outcome.failures[0].what


def test_a_refusal_of_several_lines_is_a_failure():
    def feed(data: bytes, _: object) -> None:
        raise ValueError("a\nb")

    assert fuzz(Target("lines", lambda _: [b"x"], feed, refusals=(ValueError,)), range(3)).failed == 3


def test_the_same_number_gives_the_same_input():
    from tests.fuzz.harness import input_of

    target, other = TARGETS[0], TARGETS[1]
    corpus = [b'{"id": "a"}\n']
    assert [input_of(target, corpus, n) for n in range(50)] == [input_of(target, corpus, n) for n in range(50)]
    assert [input_of(target, corpus, n) for n in range(50)] != [input_of(other, corpus, n) for n in range(50)]
