"""Attention on NVIDIA GPUs: tokamax's kernels (the extra `tokamax`), by the intervals of `ops.intervals`.

B rows, T tokens, S keys, N query heads, K key-value heads, H head width.

tokamax's public function takes only a bool mask of T x T; its operations also take an interval of keys for each query,
and skip the blocks of keys that no query of a block may see. They are private to tokamax: no other file names them.

The backward pass is tokamax's own. It visits all blocks, and in Triton's implementation it holds a bool mask of T x T
for each row that is computed at a time; Mosaic's reads the intervals. With `remat` the forward pass is computed again.

What the missing bounds cost, by compilation for an H100 (JAX 0.12.0.1, tokamax 0.0.17; the 3B preset: frozen tower, 8
rows of 4,096 tokens at once): 92 of 936 TFLOP a step, 10% of the products. `sliced` computes 895, but moves 4,480 GB
through memory where this moves 2,330; temporaries are 22.1 GB, `sliced` 28.0. Static slices of keys would hardly help:
in the order of the keys a query's tree reaches to both sides of it, so that a block of 1,024 queries sees most of the
row.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.extend import backend

from mmkp_jax.errors import InputError
from mmkp_jax.ops.attention import Attention, Backend, zero_where_blind
from mmkp_jax.ops.intervals import Intervals, forest_intervals, image_intervals, own_segments, pad_tokens, reorder
from mmkp_jax.ops.layout import on_each_device

TILE = 256
"""Rows are padded to a multiple of this, the most queries that a program of a kernel computes."""

MOSAIC = range(9, 11)
"""Major compute capabilities with Mosaic kernels in both directions: Hopper and Blackwell (of data centers)."""

OLDEST = 8
"""The first major compute capability with Triton kernels: Ampere."""

WHERE = "config.attention"


class Library(NamedTuple):
    """The parts of tokamax that are used."""

    operations: Mapping[str, Callable[..., jax.Array]]
    """Attention by implementation: `triton`, `mosaic_gpu`, `xla_chunked`."""
    mask: Callable[..., Any]
    """A mask from `k_start` and `k_end`, the first key and the end of the keys of each query: [B, 1, T]."""


def tokamax_backend(implementation: str | None = None) -> Backend:
    """The backend by one of tokamax's implementations; None for `implementation_for` the device."""
    return Backend(*(functools.partial(each, implementation) for each in (_forest, _images, _intervals)))


@functools.cache
def library() -> Library:
    """tokamax, imported.

    Raises:
        InputError: it is not installed, or is a release without these parts.
    """
    try:
        version = importlib.metadata.version("tokamax")
    except importlib.metadata.PackageNotFoundError:
        raise InputError("tokamax is not installed", WHERE, "pip install -e '.[tokamax]', or choose auto") from None
    try:
        from tokamax._src.ops.attention import api, base

        found = Library(api.IMPLEMENTATIONS, base.Mask)
    except (ImportError, AttributeError) as error:
        hint = "install the release in requirements/tested.txt, or choose auto"
        raise InputError(f"tokamax {version} differs from the tested release ({error})", WHERE, hint) from None
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # tokamax reads its flags, though no program may have parsed any
    return found


def implementation_for(device: jax.Device, dtype: jnp.dtype) -> str:
    """The fastest implementation on a device: Mosaic (for 16-bit numbers only), else Triton.

    On a CPU it is tokamax's plain XLA, for tests: exact and slow.

    Raises:
        InputError: tokamax has no kernels for the device.
    """
    if device.platform == "cpu":
        return "xla_chunked"
    major = int(str(getattr(device, "compute_capability", "0")).partition(".")[0])
    if device.platform != "gpu" or major < OLDEST:
        raise InputError(f"tokamax has no kernels for {device.device_kind}", WHERE, "choose auto")
    return "mosaic_gpu" if major in MOSAIC and jnp.dtype(dtype).itemsize == 2 else "triton"


def _forest(
    implementation: str | None, segment_BT: jax.Array, branch_BT: jax.Array, longest: int | None = None
) -> Attention:
    intervals = forest_intervals(_own_segments(segment_BT), pad_tokens(branch_BT, TILE))
    return functools.partial(_attend, implementation, intervals)


def _images(implementation: str | None, image_BP: jax.Array, longest: int | None = None) -> Attention:
    return functools.partial(_attend, implementation, image_intervals(_own_segments(image_BP)))


def _intervals(implementation: str | None, first_BT: jax.Array, end_BT: jax.Array, keys: int) -> Attention:
    last_BT = jnp.maximum(end_BT - 1, first_BT)  # the kernels give every query a key
    intervals = Intervals(pad_tokens(first_BT, TILE), pad_tokens(last_BT, TILE), None, None)
    return zero_where_blind(functools.partial(_attend, implementation, intervals), first_BT, end_BT)


def _own_segments(segment_BT: jax.Array) -> jax.Array:
    return own_segments(pad_tokens(segment_BT, TILE))


def _attend(
    implementation: str | None, intervals: Intervals, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array
) -> jax.Array:
    T = q_BTNH.shape[1]
    name = implementation or implementation_for(backend.get_default_device(), q_BTNH.dtype)
    q, k, v = (pad_tokens(x, TILE) for x in (q_BTNH, k_BSKH, v_BSKH))
    return on_each_device(functools.partial(_attend_rows, name), intervals, q, k, v)[:, :T]


def _attend_rows(name: str, intervals: Intervals, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array) -> jax.Array:
    """Attention of one device's rows and heads, padded to whole tiles.

    An operation takes another backward pass by `replace(vjp=…)`: a function of (residuals, out, gradient of out, q, k,
    v, and all other arguments by name) that returns the gradients by name. A bounded one belongs there.
    """
    if intervals.slot_BS is not None:
        k_BSKH, v_BSKH = (jax.vmap(reorder)(x, intervals.slot_BS, intervals.position_BT) for x in (k_BSKH, v_BSKH))
    operations, mask = library()
    return operations[name](
        q_BTNH,
        k_BSKH,
        v_BSKH,
        mask=mask(k_start=intervals.first_BT[:, None], k_end=intervals.last_BT[:, None] + 1),
        logits_scale=q_BTNH.shape[-1] ** -0.5,
        precision=None,  # JAX's default for matrix products
    )


TOKAMAX = tokamax_backend()
