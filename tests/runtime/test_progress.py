"""The progress bar: on a terminal of 80 columns, and on none."""

import os
import re

import pytest

from mmkp_jax.runtime import progress
from mmkp_jax.runtime.progress import Progress, Waiting

FIELDS = ["loss 5.344", "12% on CoT", "31.5 posts/s", "SFT 5.344", "CoT 7.495", "γ 0.40", "wait 0%", "lr 1.2e-05"]


class Terminal:
    """What is on stderr so far, each line as it was drawn."""

    def __init__(self, capsys):
        self._capsys, self._text = capsys, ""

    def drawn(self) -> list[str]:
        self._text += self._capsys.readouterr().err
        return [line.rstrip() for line in re.split(r"[\r\n]", self._text) if line.strip()]


@pytest.fixture
def terminal(capsys):
    return Terminal(capsys)


def widths(monkeypatch, columns):
    monkeypatch.setattr(progress, "_columns", lambda: columns)


@pytest.mark.parametrize("columns", [60, 80, 100, 200, None])
def test_as_many_fields_are_shown_as_there_is_room_for(terminal, monkeypatch, columns):
    widths(monkeypatch, columns)
    with Progress(2487, units="steps") as bar:
        bar.advance(1200)
        bar.fields(FIELDS)
        bar._bar.refresh()
    (*_, line) = [line for line in terminal.drawn() if "loss" in line]
    assert columns is None or len(line) < columns
    shown = [field for field in FIELDS if field in line]
    assert shown == FIELDS[: len(shown)] and (columns is not None or shown == FIELDS)
    if columns == 80:
        assert len(shown) >= 2
    if columns == 200:
        assert shown == FIELDS


def test_the_time_left_is_shown_after_two_units_and_leaves_out_what_came_first(terminal, monkeypatch):
    widths(monkeypatch, 80)
    with Progress(100, units="posts", label="test", first="compiling", initial=40) as bar:
        assert terminal.drawn()[-1].startswith("test: compiling…  40%|")
        bar._bar.start_t -= 1000  # as if that had taken long
        bar._bar.last_print_t -= 1000
        bar.advance()
        bar._bar.refresh()
        assert "<" not in terminal.drawn()[-1] and "compiling" not in terminal.drawn()[-1]
        bar.advance()
        bar._bar.refresh()
        line = terminal.drawn()[-1]
        assert line.startswith("test  42%|") and "<00:0" in line, line


def test_what_is_done_in_between_is_shown_and_taken_away(terminal, monkeypatch):
    widths(monkeypatch, 80)
    with Progress(10, units="steps") as bar:
        with bar.doing("saving"):
            assert terminal.drawn()[-1].startswith("saving…   0%|")
        assert "saving" not in terminal.drawn()[-1]


def test_the_width_is_that_of_the_terminal_on_stderr(monkeypatch):
    assert progress._columns() is None  # no terminal
    ours, theirs = os.openpty()
    try:
        monkeypatch.setattr("sys.stderr", os.fdopen(os.dup(theirs), "w"))
        assert progress._columns() == os.get_terminal_size(theirs).columns
    finally:
        os.close(ours), os.close(theirs)


def test_what_takes_less_than_the_delay_has_no_bar(terminal):
    with Progress(10, units="MB", label="loading weights", delay=60) as bar:
        bar.advance(10)
    assert terminal.drawn() == []


def test_off_a_terminal_a_bar_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 1000)
    with Progress(300, units="steps", first="compiling") as bar:
        for step in range(300):
            bar.advance()
            bar.fields([f"loss {step}"])
            if step == 100:
                with bar.doing("saving"):
                    pass
    err = capsys.readouterr().err
    assert "\r" not in err
    lines = [re.sub(r"\d\d:\d\d", "time", line) for line in err.splitlines()]
    assert lines == [
        "compiling…   0%|          | 0/300 steps [time]",
        "saving…  34%|███▎      | 101/300 steps [time<time, loss 100]",
        "100%|██████████| 300/300 steps [time<time, loss 299]",
    ]


@pytest.mark.parametrize("columns, lines", [(80, 4), (None, 2)])
def test_a_wait_says_what_for_and_off_a_terminal_only_once(terminal, monkeypatch, columns, lines):
    widths(monkeypatch, columns)
    with Waiting("compiling for v6e:2x4") as waiting:
        terminal.drawn()
        before = len(terminal.drawn())
        for what in ("train", "train", "train", "decode"):
            waiting.show(what)
        drawn = terminal.drawn()[before:]
    assert len(drawn) == lines and drawn[0].startswith("compiling for v6e:2x4: train… [00:0")
