"""The blend of a linear classifier and of nearest posts, by cases worked by hand and by SciPy's own minimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize

from mmkp_jax.baselines.embeddings import (
    Fitted,
    blended_shares,
    classifier_shares,
    fit,
    labels_of,
    neighbour_shares,
)


def fitted(state_ND: list, label_NC: list) -> Fitted:
    """States as they are, and a classifier that takes every keyphrase alike."""
    state_ND, label_NC = np.array(state_ND, float), np.array(label_NC, float)
    width, classes = state_ND.shape[1], label_NC.shape[1]
    return Fitted(np.zeros(width), np.ones(width), state_ND, label_NC, np.zeros((width, classes)), np.zeros(classes))


def test_keyphrases_of_a_post_share_its_weight():
    assert labels_of([[2], [0, 1], []], 3).tolist() == [[0, 0, 1], [0.5, 0.5, 0], [0, 0, 0]]


def test_nearest_posts_vote_by_their_cosine():
    """Cosines 0.8 and 0.6 at temperature 0.1: votes 1 and e^-2; the third post is no neighbour."""
    of = fitted([[1, 0], [0, 1], [-1, 0]], [[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]])
    share_QC = neighbour_shares(of, np.array([[8.0, 6.0]]), neighbours=2, temperature=0.1)
    total = 1 + np.exp(-2)
    np.testing.assert_allclose(share_QC, [[1 / total, np.exp(-2) / 2 / total, np.exp(-2) / 2 / total]])


def test_one_neighbour_is_the_nearest_post():
    of = fitted([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    assert neighbour_shares(of, np.array([[1.0, 2.0]]), neighbours=1, temperature=0.1).tolist() == [[0, 1]]


@pytest.mark.parametrize(("share", "expected"), [(0, [0.5, 0.5]), (0.5, [0.75, 0.25]), (1, [1, 0])])
def test_blend_is_between_its_parts(share, expected):
    of = fitted([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    options = {"neighbours": 1, "temperature": 0.1, "neighbour_share": share}
    np.testing.assert_allclose(blended_shares(of, np.array([[1.0, 0.0]]), **options), [expected])


def test_classifier_is_at_the_minimum():
    rng = np.random.default_rng(0)
    state_ND, label_NC = rng.normal(size=(20, 3)), labels_of([[int(n)] for n in rng.integers(0, 4, 20)], 4)
    found = fit(state_ND, label_NC, decay=0.05, steps=60)
    x_ND = (state_ND - state_ND.mean(axis=0)) / state_ND.std(axis=0)

    def loss(params: np.ndarray) -> float:
        kernel, bias = params[:12].reshape(3, 4), params[12:]
        logit = x_ND @ kernel + bias
        logp = logit - np.log(np.exp(logit).sum(axis=1, keepdims=True))
        return -(label_NC * logp).sum(axis=1).mean() + 0.05 * np.square(kernel).sum()

    best = minimize(loss, np.zeros(16), options={"gtol": 1e-7})
    np.testing.assert_allclose(found.kernel_DC, best.x[:12].reshape(3, 4), atol=2e-3)
    np.testing.assert_allclose(classifier_shares(found, state_ND).sum(axis=1), 1, rtol=1e-6)
