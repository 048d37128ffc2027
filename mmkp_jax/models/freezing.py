"""The split of parameters into trainable and frozen ones."""

import fnmatch
from collections.abc import Collection, Sequence

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.models.definition import Definition, Params, flatten, unflatten
from mmkp_jax.models.lora import FULL, is_adapter, is_in


def split_trained(definition: Definition, params: Params, freeze: Sequence[str]) -> tuple[Params, Params]:
    """(trainable, frozen): with LoRA the adapters train, and the projector if it says so; else what `freeze` leaves.

    Args:
        params: leaves by the paths of the definition's parameters.
        freeze: `config.freeze`.

    Raises:
        InputError: as `split_params`.
    """
    family, lora = definition.family, definition.lora
    if lora is None:
        return split_params(params, family.paths(freeze))
    in_full = family.parts().get("projector", ()) if lora.projector == FULL else ()
    return _divide(params, {path for path in flatten(params) if not (is_adapter(path) or is_in(path, in_full))})


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
    return _divide(params, frozen)


def join_params(*parts: Params) -> Params:
    """The inverse of `split_params`."""
    return unflatten({path: leaf for part in parts for path, leaf in flatten(part).items()})


def _divide(params: Params, frozen: Collection[str]) -> tuple[Params, Params]:
    """The leaves that are not in `frozen`, and those that are."""
    flat = flatten(params)
    return (
        unflatten({path: leaf for path, leaf in flat.items() if path not in frozen}),
        unflatten({path: leaf for path, leaf in flat.items() if path in frozen}),
    )


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}.*")
