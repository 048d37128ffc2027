"""An MLP whose width is no whole vectors is computed with zeros after it, which change neither values nor gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmkp_jax.models.layers import SwiGLU
from mmkp_jax.models.lora import Adapter, Lora
from mmkp_jax.ops.layout import filling_of

WIDTH, HIDDEN = 24, 12
LORA = Lora(rank=2, alpha=4)
X = jax.random.normal(jax.random.key(1), (3, 5, WIDTH), jnp.bfloat16)


def mlp(bias: bool) -> SwiGLU:
    """An MLP with an adapter on two of its linears, every number random."""
    made = SwiGLU(WIDTH, HIDDEN, ("embed", "mlp"), bias=bias, layers=None, rngs=nnx.Rngs(0))
    for name in ("up", "down"):
        linear = getattr(made, name)
        linear.lora = Adapter(linear, LORA, name, None)
    leaves, tree = jax.tree.flatten(nnx.state(made))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    nnx.update(made, tree.unflatten([jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]))
    return made


def plain(state: nnx.State, x: jax.Array) -> jax.Array:
    """The same without zeros, as a formula, rounded to bfloat16 where the model rounds."""

    def linear(name: str, x: jax.Array) -> jax.Array:
        own = state[name]

        def times(x: jax.Array, weight: jax.Array) -> jax.Array:
            return jnp.einsum("...i,oi->...o", x, weight[...].astype(x.dtype))

        y = times(x, own["weight"])
        if "bias" in own:
            y += own["bias"][...].astype(x.dtype)
        return y + times(times(x, own["lora"]["a"]), own["lora"]["b"]) * LORA.scale if "lora" in own else y

    return linear("down", jax.nn.silu(linear("gate", x)) * linear("up", x))


@pytest.mark.parametrize("bias", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_values_and_gradients_are_those_without_zeros(bias):
    """bfloat16 keeps 8 bits: 2% of the largest, as products may be added in another order."""
    model = mlp(bias)
    graph, state = nnx.split(model)
    with_zeros = jax.value_and_grad(lambda s, x: nnx.merge(graph, s)(x).astype(jnp.float32).sum(), (0, 1))(state, X)
    without = jax.value_and_grad(lambda s, x: plain(s, x).astype(jnp.float32).sum(), (0, 1))(state, X)
    for ours, theirs in zip(jax.tree.leaves(with_zeros), jax.tree.leaves(without), strict=True):
        assert ours.shape == theirs.shape
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
        np.testing.assert_allclose(ours, theirs, atol=0.02 * np.abs(theirs).max())


def test_the_products_have_whole_vectors_of_16_bytes():
    """But not those of the adapter, nor in float32."""
    program = str(jax.make_jaxpr(lambda x: mlp(True)(x))(X))
    assert f"bf16[15,{HIDDEN + 4}] = dot_general" in program
    assert program.count(f"bf16[15,{HIDDEN}] = dot_general") == 1
    assert f"f32[15,{HIDDEN + 4}]" not in str(jax.make_jaxpr(lambda x: mlp(True)(x))(X.astype(jnp.float32)))


@pytest.mark.parametrize(("width", "zeros"), [(3420, 4), (3424, 0), (11008, 0), (1, 7)])
def test_widths_are_filled_up_to_a_multiple_of_eight(width, zeros):
    assert filling_of(width, jnp.bfloat16) == zeros
    assert filling_of(width, jnp.float32) == 0
