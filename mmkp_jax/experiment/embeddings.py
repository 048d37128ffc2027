"""The experiment of the baseline on hidden states: each training post is read once, and a classifier is fitted."""

import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mmkp_jax.baselines.embeddings import fit, labels_of
from mmkp_jax.baselines.setup import TRAIN, open_posts
from mmkp_jax.baselines.vocabulary import make_vocabulary, save_vocabulary, words_of
from mmkp_jax.data.numbered import OnDemand, each_of
from mmkp_jax.data.posts import text_of
from mmkp_jax.errors import InputError
from mmkp_jax.inference.hidden_states import FILE, HiddenStates, StatePredictor, read_fitted, write_fitted
from mmkp_jax.runtime.progress import Progress
from mmkp_jax.training.watchdog import Watchdog


def fit_states(
    config: ConfigDict, workdir: Path, claimed: Callable[[], None], watchdog: Watchdog
) -> tuple[StatePredictor, int]:
    """The fitted predictor, and its number of steps; one that is fitted already is read from the work directory.

    Args:
        claimed: claims the work directory; called when what can be checked without it is checked.

    Raises:
        InputError: the model or the dataset cannot be used.
    """
    split = open_posts(config).splits[TRAIN]
    states = HiddenStates(config.model.path, config.inputs, config.eval_batch_size)
    vocabulary = make_vocabulary(list(map(text_of, each_of(split))), (), config.vocabulary)
    claimed()
    save_vocabulary(vocabulary, workdir)
    if not (workdir / FILE).exists():
        found = []
        bar = Progress(len(split), units="posts", label="hidden states", first="compiling, first states")
        with bar, watchdog.counting("hidden state"):
            for number, post, state_D in states.read(OnDemand(len(split), split.__getitem__)):
                if state_D is not None:
                    own = [vocabulary.classes[" ".join(words_of(each))] for each in post.keyphrases]
                    found.append((number, np.asarray(state_D, np.float32), own))
                bar.advance()
                watchdog.beat()
        if not found:
            raise InputError("none of its training posts can be read", config.data.path, "give another dataset")
        found.sort(key=operator.itemgetter(0))
        state_ND = np.stack([state_D for _, state_D, _ in found])
        label_NC = labels_of([own for _, _, own in found], len(vocabulary.keyphrases))
        print(f"{len(found):,} training posts, {state_ND.shape[1]:,} numbers each; {label_NC.shape[1]:,} keyphrases")
        write_fitted(workdir, fit(state_ND, label_NC, decay=config.decay, steps=config.classifier_steps))
    return StatePredictor(states, read_fitted(workdir), vocabulary, config), config.classifier_steps
