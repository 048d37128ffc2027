"""Published tensor names against paths in our parameters: one table a family, read in both directions."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmkp_jax.models.family import Names


class Published(NamedTuple):
    """A published tensor: one of our parameters, or one layer of a stacked one."""

    name: str
    layer: int | None
    shape: tuple[int, ...]


def published_name(name: str, names: Names) -> str:
    """The published name of a tensor, from its name in a file."""
    for alias, prefix in names.aliases:
        if name.startswith(alias):
            return prefix + name.removeprefix(alias)
    return name


def published_tensors(shapes: Mapping[str, tuple[int, ...]], names: Names) -> dict[str, list[Published]]:
    """The published tensors, layers in order, that make up each of our parameters (shapes by dotted path).

    Raises:
        KeyError: the table lacks a path.
    """
    theirs = {path: name for name, path in names.ours.items()}

    def parts(name: str, shape: tuple[int, ...]) -> list[Published]:
        if "{}" not in name:
            return [Published(name, None, shape)]
        return [Published(name.format(layer), layer, shape[1:]) for layer in range(shape[0])]

    return {path: parts(theirs[path], shape) for path, shape in shapes.items()}


def compact(names: Iterable[str]) -> str:
    """Names for a message; those that differ only in the layer are joined: `layers.{0..35}.q.bias`."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        template = name if number is None else f"{name[: number.start()]}{{}}{name[number.end() :]}"
        layers.setdefault(template, []).extend([] if number is None else [int(number[0])])
    return ", ".join(template.replace("{}", _ranges(numbers)) for template, numbers in layers.items())


def _ranges(numbers: list[int]) -> str:
    """Numbers as ranges: `3` or `{0,2..5}`."""
    runs = []
    for _, run in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}..{members[-1]}")
    return ",".join(runs) if len(numbers) == 1 else "{" + ",".join(runs) + "}"
