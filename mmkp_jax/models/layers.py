"""Layers that the model families share.

B rows, T tokens, P patches, D model width, N query heads, K key-value heads, H head width, I = H / 2, F hidden width.

A parameter has the shape of its published tensor; a stack of layers puts one axis in front of it. So loading and
export rename and stack, and never transpose. Each parameter carries the names of its axes (`logical_axes`), which
`mmkp_jax.models.sharding` maps to the mesh.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.models.nf4 import NF4Weight
from mmkp_jax.ops.attention import SAVED
from mmkp_jax.ops.layout import filling_of, over_rows

NORMAL = jax.nn.initializers.normal(0.02)

ATTENTION = jax.checkpoint_policies.save_only_these_names(SAVED)
"""What a layer saves for the backward pass besides its input, with `remat`."""

PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, ATTENTION
)
"""What a layer saves without `remat`: what takes longer to compute than to read."""


def parameter(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    layers: int | None,
    init: Callable = NORMAL,
) -> nnx.Param:
    """A float32 parameter with named axes, stacked `layers` times in front if that is given."""
    if layers is not None:
        shape, axes = (layers, *shape), ("layers", *axes)
    return nnx.Param(init(rngs.params(), shape, jnp.float32), logical_axes=axes)


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x W^T of [T, in] and [out, in]."""
    return jax.lax.dot_general(x, weight, (((1,), (1,)), ((), ())))


class Linear(nnx.Module):
    """x W^T + b, with W as published: [out, in]; `models.lora.adapt` may add an adapter, and hold W in 4 bits."""

    def __init__(
        self,
        size: tuple[int, int],
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        layers: int | None,
        rngs,
    ):
        self.weight = parameter(rngs, size, axes, layers)
        self.bias = parameter(rngs, size[:1], axes[:1], layers, jax.nn.initializers.zeros) if bias else nnx.data(None)
        self.lora = nnx.data(None)

    def __call__(self, x: jax.Array, filling: int = 0) -> jax.Array:
        """x W^T + b, and `filling` zeros after it; where `x` has such zeros at its end, they meet zeros of W."""
        flat = x.reshape(-1, x.shape[-1])  # XLA's CPU backend multiplies 2-D operands much faster
        weight = self.weight.values(x.dtype) if isinstance(self.weight, NF4Weight) else self.weight[...].astype(x.dtype)
        width = weight.shape[1]
        if filling or flat.shape[1] > width:
            weight = jnp.pad(weight, ((0, filling), (0, flat.shape[1] - width)))
        y = product(flat, weight)
        if self.bias is not None:
            y = y + jnp.pad(self.bias[...].astype(x.dtype), (0, filling))
        if self.lora is not None:
            y = y + jnp.pad(self.lora(flat[:, :width]), ((0, 0), (0, filling)))
        return y.reshape(*x.shape[:-1], y.shape[-1])


class RMSNorm(nnx.Module):
    """Root-mean-square norm: in float32, cast back, then scaled (the order in which transformers rounds)."""

    def __init__(self, width: int, axis: str, *, eps: float, layers: int | None, rngs):
        self.scale = parameter(rngs, (width,), (axis,), layers, jax.nn.initializers.ones)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * self.scale[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm with scale and bias: all in float32, then cast back once (as PyTorch's kernels round)."""

    def __init__(self, width: int, axis: str, *, eps: float, layers: int | None, rngs):
        self.scale = parameter(rngs, (width,), (axis,), layers, jax.nn.initializers.ones)
        self.bias = parameter(rngs, (width,), (axis,), layers, jax.nn.initializers.zeros)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (wide * self.scale[...] + self.bias[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, axes: tuple[str, str], *, bias: bool, layers: int | None, rngs):
        D, F = axes
        self.hidden = hidden
        self.gate = Linear((hidden, width), (F, D), bias=bias, layers=layers, rngs=rngs)
        self.up = Linear((hidden, width), (F, D), bias=bias, layers=layers, rngs=rngs)
        self.down = Linear((width, hidden), (D, F), bias=bias, layers=layers, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        filling = filling_of(self.hidden, x.dtype)
        return self.down(jax.nn.silu(self.gate(x, filling)) * self.up(x, filling))


class Rotation(NamedTuple):
    """Rotary angles of pairs, as cosine and sine: computed once for all layers."""

    cos_BTI: jax.Array
    sin_BTI: jax.Array


def rotation_by(angle_BTI: jax.Array) -> Rotation:
    """The rotation by angles in radians."""
    return Rotation(jnp.cos(angle_BTI), jnp.sin(angle_BTI))


def rotate(x_BTNH: jax.Array, by: Rotation) -> jax.Array:
    """Rotates the pairs (i, i + H/2) of each head (I = H/2), in at least float32."""
    wide = x_BTNH.astype(jnp.promote_types(x_BTNH.dtype, jnp.float32))
    left, right = jnp.split(wide, 2, axis=-1)
    cos, sin = by.cos_BTI[:, :, None], by.sin_BTI[:, :, None]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x_BTNH.dtype)


def scan_layers(layers: nnx.Module, x: Any, each: Callable, *per_layer: jax.Array, remat: bool) -> Any:
    """Runs `x = each(layer, x, *slices)` over the stacked `layers`; x is an array, or several, with rows in front.

    For the backward pass it saves the outputs of matrix products and of attention, and computes elementwise work again;
    with `remat` it saves x and what attention saves, and computes the other products again, too.

    `per_layer` arrays have the layer axis in front; `each` gets their slices.
    """
    graph, stacked = nnx.split(layers)

    def body(x: Any, slices: tuple) -> tuple[Any, None]:
        layer, *rest = slices
        return jax.tree.map(over_rows, each(nnx.merge(graph, layer), x, *rest)), None

    body = jax.checkpoint(body, prevent_cse=False, policy=ATTENTION if remat else PRODUCTS)
    return jax.lax.scan(body, x, (stacked, *per_layer))[0]


def scan_stacks(
    stacks: Mapping[str, nnx.Module], kinds: Sequence[str], x: jax.Array, each: Callable, *, remat: bool
) -> jax.Array:
    """Runs `x = each(layer, x)` over layers of several stacks that take turns; saves what `scan_layers` does.

    Args:
        kinds: the stack of each layer of a block, which is repeated until the stacks end.
    """
    graphs, states = {}, {}
    for name, stack in stacks.items():
        graphs[name], stacked = nnx.split(stack)
        each_block = kinds.count(name)
        states[name] = jax.tree.map(lambda leaf, n=each_block: leaf.reshape(-1, n, *leaf.shape[1:]), stacked)

    def layer(name: str, x: jax.Array, state: nnx.State) -> jax.Array:
        return over_rows(each(nnx.merge(graphs[name], state), x))

    policy = ATTENTION if remat else PRODUCTS
    runs = {name: jax.checkpoint(functools.partial(layer, name), prevent_cse=False, policy=policy) for name in stacks}

    def block(x: jax.Array, states: Mapping[str, nnx.State]) -> tuple[jax.Array, None]:
        for place, name in enumerate(kinds):
            index = kinds[:place].count(name)
            x = runs[name](x, jax.tree.map(operator.itemgetter(index), states[name]))
        return x, None

    return jax.lax.scan(block, x, states)[0]
