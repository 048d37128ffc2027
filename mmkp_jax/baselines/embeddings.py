"""Keyphrases from a frozen model's hidden states: a linear classifier, the nearest training posts, and their blend.

N training posts, Q posts to predict for, D width of a state, C keyphrases of the training posts, K neighbours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Fitted(NamedTuple):
    """What training leaves."""

    mean_D: np.ndarray
    scale_D: np.ndarray
    """Mean and standard deviation of the training states, which states are standardised with."""
    state_ND: np.ndarray
    """Standardised states of the training posts, of length 1."""
    label_NC: np.ndarray
    """Whose keyphrase each is: a post's numbers sum to 1."""
    kernel_DC: np.ndarray
    bias_C: np.ndarray


def labels_of(numbers: list[list[int]], classes: int) -> np.ndarray:
    """`label_NC`, from the numbers of each post's keyphrases, which share a weight of 1."""
    label_NC = np.zeros((len(numbers), classes), np.float32)
    for row, own in enumerate(numbers):
        np.add.at(label_NC[row], own, 1 / len(own) if own else 0)
    return label_NC


def fit(state_ND: np.ndarray, label_NC: np.ndarray, *, decay: float, steps: int) -> Fitted:
    """Fits the classifier: cross-entropy with the posts' keyphrases plus `decay` times the kernel's squared norm.

    Args:
        steps: of L-BFGS from zero.
    """
    mean_D = state_ND.mean(axis=0)
    scale_D = np.maximum(state_ND.std(axis=0), 1e-6)
    x_ND = (state_ND - mean_D) / scale_D
    kernel_DC, bias_C = _minimise(jnp.asarray(x_ND), jnp.asarray(label_NC), decay, steps)
    return Fitted(mean_D, scale_D, _unit(x_ND), label_NC, np.asarray(kernel_DC), np.asarray(bias_C))


def _minimise(x_ND: jax.Array, label_NC: jax.Array, decay: float, steps: int) -> tuple[jax.Array, jax.Array]:
    lbfgs = optax.lbfgs()

    def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
        kernel_DC, bias_C = params
        logp_NC = jax.nn.log_softmax(x_ND @ kernel_DC + bias_C)
        return -(label_NC * logp_NC).sum(axis=1).mean() + decay * jnp.square(kernel_DC).sum()

    @jax.jit
    def run() -> tuple[jax.Array, jax.Array]:
        params = jnp.zeros((x_ND.shape[1], label_NC.shape[1])), jnp.zeros(label_NC.shape[1])

        def step(_: jax.Array, carry: tuple) -> tuple:
            params, state = carry
            value, gradient = optax.value_and_grad_from_state(loss)(params, state=state)
            updates, state = lbfgs.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, lbfgs.init(params)))[0]

    return run()


def classifier_shares(fitted: Fitted, state_QD: np.ndarray) -> np.ndarray:
    """The classifier's probabilities, [Q, C]."""
    logit_QC = (state_QD - fitted.mean_D) / fitted.scale_D @ fitted.kernel_DC + fitted.bias_C
    p_QC = np.exp(logit_QC - logit_QC.max(axis=1, keepdims=True))
    return p_QC / p_QC.sum(axis=1, keepdims=True)


def neighbour_shares(fitted: Fitted, state_QD: np.ndarray, *, neighbours: int, temperature: float) -> np.ndarray:
    """The keyphrases of the nearest training posts by cosine, [Q, C]; their votes are a softmax and sum to 1."""
    cosine_QN = _unit((state_QD - fitted.mean_D) / fitted.scale_D) @ fitted.state_ND.T
    near_QK = np.argsort(-cosine_QN, axis=1, kind="stable")[:, :neighbours]
    cosine_QK = np.take_along_axis(cosine_QN, near_QK, axis=1)
    vote_QK = np.exp((cosine_QK - cosine_QK[:, :1]) / temperature)
    vote_QK /= vote_QK.sum(axis=1, keepdims=True)
    return np.einsum("qk,qkc->qc", vote_QK, fitted.label_NC[near_QK])


def blended_shares(
    fitted: Fitted, state_QD: np.ndarray, *, neighbour_share: float, neighbours: int, temperature: float
) -> np.ndarray:
    """The weighted mean of both, [Q, C]."""
    near_QC = neighbour_shares(fitted, state_QD, neighbours=neighbours, temperature=temperature)
    return neighbour_share * near_QC + (1 - neighbour_share) * classifier_shares(fitted, state_QD)


def _unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12)
