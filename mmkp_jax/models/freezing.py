"""The split of parameters into trainable and frozen ones."""

import fnmatch
from collections.abc import Sequence

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.models.definition import Params, flatten, unflatten


def split_params(params: Params, freeze: Sequence[str]) -> tuple[Params, Params]:
    """(trainable, frozen): the leaves whose path matches no pattern, or a pattern, of `freeze`.

    A pattern is a path or a prefix of one that ends at a dot (`visual.blocks`); `*` matches anything.

    Raises:
        InputError: a pattern matches no parameter, or nothing is left to train.
    """
    flat = flatten(params)
    for pattern in freeze:
        if not any(_matches(path, pattern) for path in flat):
            depth = pattern.count(".") + 1
            known = {".".join(path.split(".")[:depth]) for path in flat}
            raise InputError(
                f"{pattern!r} matches no parameter{nearest(pattern, known)}",
                "config.freeze",
                "give parameter paths or their prefixes",
            )
    frozen = {path for path in flat if any(_matches(path, pattern) for pattern in freeze)}
    if len(frozen) == len(flat):
        raise InputError("every parameter is frozen", "config.freeze", "leave something to train")
    return (
        unflatten({path: leaf for path, leaf in flat.items() if path not in frozen}),
        unflatten({path: leaf for path, leaf in flat.items() if path in frozen}),
    )


def join_params(*parts: Params) -> Params:
    """The inverse of `split_params`."""
    return unflatten({path: leaf for part in parts for path, leaf in flatten(part).items()})


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}.*")
