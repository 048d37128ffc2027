"""Predictions of several modes, a file each, resume from any moment."""

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.inference.resumable_predictions import ResumablePredictions, write_each

MODES = ("direct", "think")


def opened(folder):
    return {mode: ResumablePredictions(folder / f"{mode}.txt", ["a", "b"], mode) for mode in MODES}


def predictions(missing):
    return [(n, Prediction("ab"[n], ["x"], [f"of {mode}"], "", "direct", 1, mode=mode)) for n, mode in missing]


EVERY = [(n, mode) for n in (1, 0) for mode in MODES]


def assert_complete(folder):
    for mode in MODES:
        assert (folder / f"{mode}.txt").read_text() == f"of {mode}\n" * 2
    assert sorted(file.name for file in folder.iterdir()) == ["direct.txt", "think.txt"]


@pytest.mark.parametrize("done", range(len(EVERY) + 1))
def test_what_is_missing_is_written_after_a_stop_at_any_prediction(tmp_path, done):
    files = opened(tmp_path)
    stopped = write_each(files, iter(predictions(EVERY)))
    for _ in range(done):
        next(stopped)
    stopped.close()
    again = opened(tmp_path)
    missing = [(n, mode) for n, mode in EVERY if n not in again[mode].found]
    assert len(missing) == len(EVERY) - done
    list(write_each(again, iter(predictions(missing))))
    assert_complete(tmp_path)


def test_a_stop_between_the_ends_of_two_files_is_resumed(tmp_path):
    files = opened(tmp_path)
    for mode, file in files.items():
        with file:
            for number, prediction in predictions((n, m) for n, m in EVERY if m == mode):
                file.add(number, prediction)
    files["direct"].finish()
    again = opened(tmp_path)
    assert all(len(file.found) == 2 for file in again.values())
    list(write_each(again, iter(())))
    assert_complete(tmp_path)
    with pytest.raises(InputError, match="this file exists already"):
        opened(tmp_path)
