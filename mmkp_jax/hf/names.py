"""Published tensor names against paths in our parameters: one table a family, read in both directions."""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmkp_jax.hf.tensors import Tensor
from mmkp_jax.models.family import Names, Source


class Published(NamedTuple):
    """A published tensor, or a part of its rows: one of our parameters, or one layer of a stacked one."""

    name: str
    layer: int | None
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    part: tuple[int, int] = (0, 1)
    """(i, n): the i-th of n equal parts of its rows."""

    def of(self, tensor: Tensor) -> Tensor:
        """The part in a file."""
        i, n = self.part
        if n == 1:
            return tensor
        rows = tensor.shape[0] // n
        return tensor._replace(shape=(rows, *tensor.shape[1:]), first_row=i * rows)


def source_of(path: str, names: Names) -> Source:
    """Where the parameter at `path` is published.

    Raises:
        KeyError: the table lacks the path.
    """
    source = names.published[path]
    return Source(source) if isinstance(source, str) else source


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

    def parts(source: Source, shape: tuple[int, ...]) -> list[Published]:
        if "{}" not in source.name:
            return [Published(source.name, None, _whole(shape, source), source.part)]
        whole = _whole(shape[1:], source)
        return [Published(source.name.format(source.number(i)), i, whole, source.part) for i in range(shape[0])]

    return {path: parts(source_of(path, names), shape) for path, shape in shapes.items()}


def pieces_of(tensors: Mapping[str, list[Published]]) -> dict[str, tuple[list[str], list[Published]]]:
    """The paths of the parameters that make up each published tensor, and their parts of it, in the rows' order."""
    found: dict[str, list[tuple[str, Published]]] = {}
    for path, parts in tensors.items():
        for part in parts:
            found.setdefault(part.name, []).append((path, part))
    ordered = {name: sorted(pieces, key=lambda piece: piece[1].part) for name, pieces in found.items()}
    return {name: ([path for path, _ in pieces], [part for _, part in pieces]) for name, pieces in ordered.items()}


def _whole(shape: tuple[int, ...], source: Source) -> tuple[int, ...]:
    _, n = source.part
    return shape if n == 1 else (n * shape[0], *shape[1:])


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
