"""What JAX computes once before a scan over layers, and keeps through it."""

from collections.abc import Callable
from typing import Any

import jax


def kept_through_layers(layer: Callable[[jax.Array, Any], jax.Array], x: jax.Array, weights: Any) -> set[tuple]:
    """Shapes of the arrays that are made outside the scans of two layers' gradient with respect to `x`.

    Args:
        layer: (activations, the layer's weights) -> activations.
        weights: arrays with a leading axis of two layers.
    """

    def loss(x: jax.Array) -> jax.Array:
        return jax.lax.scan(jax.checkpoint(lambda h, w: (layer(h, w), None)), x, weights)[0].sum()

    eqns = jax.make_jaxpr(jax.grad(loss))(x).eqns
    scans = [eqn for eqn in eqns if eqn.primitive.name == "scan"]
    assert len(scans) == 2  # forwards and backwards
    return {var.aval.shape for eqn in eqns if eqn not in scans for var in eqn.outvars}
