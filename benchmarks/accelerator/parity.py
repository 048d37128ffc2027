"""Every attention backend against the dense rule on this device: outputs and gradients.

    python -m benchmarks.accelerator.parity --size=tiny|3b --notes=FILE

The reference is dense attention in float32 at the highest precision. An error is the norm of the difference over the
norm, the largest of the output's and the three gradients', real slots only. A backend agrees if its error is at most
twice that of dense attention in the same dtype, as the device computes it by default.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.notes import Notes
from benchmarks.machine import describe_machine
from mmkp_jax.data.forest import COT, SFT, TRUNK
from mmkp_jax.errors import InputError
from mmkp_jax.ops.attention import DENSE, Attention, Backend
from mmkp_jax.ops.sliced import SLICED
from mmkp_jax.ops.tokamax import TOKAMAX, library, tokamax_backend

TOKENS = {"tiny": 260, "3b": 2048}
WIDTHS = {"tiny": (16,), "3b": (64, 80, 128)}
DTYPES = {"tiny": ("bfloat16",), "3b": ("float32", "bfloat16")}
HEADS = {"forest": (4, 2), "images": (2, 2)}
FLOOR = 1e-6
"""An error that is no error."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", required=True)
    parser.add_argument("--notes", type=Path, required=True)
    args = parser.parse_args()
    notes, (backends, missing) = Notes(args.notes), backends_here()
    found: dict[str, dict[str, Any]] = {name: {} for name in backends}
    notes.put(machine=describe_machine(), missing=missing)
    for rule in HEADS:
        for width in WIDTHS[args.size]:
            for dtype in DTYPES[args.size]:
                for name, case in compared(rule, TOKENS[args.size], width, dtype, backends).items():
                    found[name][f"{rule}, width {width}, {dtype}"] = case
                notes.put(backends=found)
    cases = [case for of in found.values() for case in of.values()]
    agree = sum(case.get("agrees", False) for case in cases)
    print(f"{agree} of {len(cases)} cases agree")
    if agree < len(cases):
        raise SystemExit("not all backends agree with the dense rule")


def backends_here() -> tuple[dict[str, Backend], dict[str, str]]:
    """Backends by name, and why others are missing."""
    found, missing = {"sliced": SLICED}, {}
    try:
        library()
    except InputError as error:
        return found, {"tokamax": str(error)}
    found["tokamax"] = TOKAMAX
    if jax.default_backend() == "gpu":
        found["tokamax, Triton"] = tokamax_backend("triton")
    return found, missing


def rows_of(rule: str, tokens: int) -> tuple[tuple[np.ndarray, ...], int]:
    """Four rows, and the longest tree or image: several and padding, a single one, many small ones, none."""
    rng = np.random.default_rng(0)
    segment_BT, branch_BT = np.zeros((2, 4, tokens), np.int32)
    for row, (longest, filled) in enumerate([(tokens // 3, 0.9 * tokens), (tokens, tokens), (40, 1.0 * tokens)]):
        end, number = 0, 0
        while end < filled:
            size = tokens if longest == tokens else int(rng.integers(8, longest + 1))
            size, number = min(size, tokens - end), number + 1
            cot, sft = size // 3, size // 8
            branch = np.repeat([TRUNK, COT, SFT], [size - cot - sft, cot, sft])
            segment_BT[row, end : end + size], branch_BT[row, end : end + size] = number, branch
            end += size
    longest = max(np.bincount(row[row > 0]).max(initial=1) for row in segment_BT)
    return ((segment_BT, branch_BT) if rule == "forest" else (segment_BT,)), int(longest)


def compared(rule: str, tokens: int, width: int, dtype: str, backends: dict[str, Backend]) -> dict[str, Any]:
    """The error of each backend in a case."""
    rows, longest = rows_of(rule, tokens)
    N, K = HEADS[rule]
    rng, here = np.random.default_rng(width), (rows[0] > 0)[..., None, None]
    exact = [rng.standard_normal((*rows[0].shape, n, width), np.float32) for n in (N, K, K, N)]
    arrays = [jnp.asarray(a, dtype) for a in exact]
    exact = [a.astype(jnp.float32) for a in arrays]

    def attention(backend: Backend) -> Attention:
        return getattr(backend, rule)(*map(jnp.asarray, rows), longest)

    with jax.default_matmul_precision("highest"):
        reference = both_passes(attention(DENSE), here, *exact)
    limit = 2 * distance(both_passes(attention(DENSE), here, *arrays), reference) + FLOOR
    cases = {}
    for name, backend in backends.items():
        try:
            error = distance(both_passes(attention(backend), here, *arrays), reference)
        except Exception as failure:  # one that does not run must not hide the others
            found = {"failed": f"{type(failure).__name__}: {str(failure).strip()[:300]}"}
        else:
            found = {"error": error, "limit": limit, "agrees": bool(error <= limit)}
        cases[name] = found
    return cases


def both_passes(attend: Attention, here: np.ndarray, q, k, v, g) -> list[np.ndarray]:
    """The output at real slots, and the gradients of q, k and v."""
    run: Callable = jax.jit(functools.partial(_both_passes, attend))
    return [np.asarray(a, np.float64) for a in run(jnp.asarray(here), q, k, v, g)]


def _both_passes(attend: Attention, here: jax.Array, q, k, v, g) -> tuple[jax.Array, ...]:
    out, pull = jax.vjp(attend, q, k, v)
    return out * here, *pull((g * here).astype(out.dtype))


def distance(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest relative error of an array; infinite where one is not finite."""
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True)]
    return float(max(errors)) if np.isfinite(errors).all() else float("inf")


if __name__ == "__main__":
    main()
