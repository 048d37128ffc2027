"""Keyphrases from the hidden states of a frozen model: its states of posts, and the predictor that reads them.

The files of a run: `vocabulary.json` and `embeddings.npz`, which holds what `baselines.embeddings.Fitted` names.

D width of a state.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from ml_collections import ConfigDict

from mmkp_jax.baselines.embeddings import Fitted, blended_shares
from mmkp_jax.baselines.predictor import prediction_of
from mmkp_jax.baselines.vocabulary import Vocabulary
from mmkp_jax.data.numbered import Numbered, OnDemand
from mmkp_jax.data.posts import Record, Reject
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.inference.predictor import Predictor, load_predictor
from mmkp_jax.runtime.atomic import replacing

FILE = "embeddings.npz"

Inputs = Literal["text", "image", "both"]


class HiddenStates:
    """The state of the prompt's last token, of a model that stays as it is.

    Args:
        inputs: what of a post the model reads.

    Raises:
        InputError: there is no such model, or it cannot be used.
    """

    def __init__(self, model: str, inputs: Inputs, batch_size: int):
        if not model:
            raise InputError("it is empty", "config.model.path", "give the model whose hidden states are read")
        self._inputs: Inputs = inputs
        self._predictor: Predictor = load_predictor(model, batch_size=batch_size, answer_tokens=1)

    def read(
        self, rows: Numbered[Record | Reject], skipped: Callable[[tuple[str, str]], None] = lambda _: None
    ) -> Iterator[tuple[int, Prediction, np.ndarray | None]]:
        """Yields (number, an empty prediction of the post, its `state_D`) of every post; None where it has no state."""
        states: dict[int, np.ndarray] = {}
        shown = OnDemand(len(rows), lambda number: self._shown(rows[number]))
        for number, found in self._predictor.predict(shown, skipped, states.__setitem__):
            yield number, found, states.pop(number, None)

    def _shown(self, row: Record | Reject) -> Record | Reject:
        if isinstance(row, Reject) or self._inputs == "both":
            return row
        if self._inputs == "image":
            return dataclasses.replace(row, text="")
        return dataclasses.replace(row, image=b"", width=0, height=0)


class StatePredictor:
    """The blend of a linear classifier and of the nearest training posts, on hidden states."""

    def __init__(self, states: HiddenStates, fitted: Fitted, vocabulary: Vocabulary, config: ConfigDict):
        self._states, self._fitted, self._vocabulary = states, fitted, vocabulary
        self._most = config.most_predicted
        self._options = {name: config[name] for name in ("neighbour_share", "neighbours", "temperature")}

    def predict(
        self,
        rows: Numbered[Record | Reject],
        skipped: Callable[[tuple[str, str]], None] = lambda _: None,
        state: Callable[[int, np.ndarray], None] = lambda *_: None,
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (number, prediction) of every post; `skipped` and `state` as for `inference.Predictor.predict`."""
        for number, found, state_D in self._states.read(rows, skipped):
            if state_D is None:
                yield number, found
                continue
            state(number, state_D)
            (share_C,) = blended_shares(self._fitted, np.asarray(state_D, np.float32)[None], **self._options)
            best = [each for each in np.argsort(-share_C, kind="stable")[: self._most].tolist() if share_C[each] > 0]
            phrases = [(self._vocabulary.keyphrases[each], float(np.log(share_C[each])), 1) for each in best]
            yield number, prediction_of(found.id, found.keyphrases, phrases)


def write_fitted(workdir: Path, fitted: Fitted) -> None:
    """Writes the run's file."""
    with replacing(workdir / FILE) as out:
        np.savez(out, **fitted._asdict())


def read_fitted(workdir: Path) -> Fitted:
    """The run's file.

    Raises:
        InputError: it is missing or damaged.
    """
    file, hint = workdir / FILE, "restore it, or run again"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Fitted(**{name: arrays[name] for name in Fitted._fields})
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", str(file), hint) from None
