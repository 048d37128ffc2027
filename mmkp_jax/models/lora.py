"""LoRA (Hu et al., 2021): y = x W^T + s · drop(x) A^T B^T, with W frozen, for any `Linear` of any family.

T tokens (all rows in one axis), r the rank, L layers of a stack. A is [L, r, in], B [L, out, r]: PEFT's shapes, so that
an export is a renaming. The scale s is alpha / r, or alpha / sqrt(r) (rsLoRA). A stack's adapters are stacked too.

`Linear`s are chosen by the paths that their modules have in transformers, as in PEFT. Several of ours that are one
published tensor (fused queries, keys and values) have one A and one B: A is one parameter of all, B is divided by rows.
"""

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmkp_jax.errors import InputError, nearest
from mmkp_jax.models.family import Family, Names, Source
from mmkp_jax.models.layers import Linear, product
from mmkp_jax.models.nf4 import BLOCK, NF4Weight

BF16, NF4 = "bf16", "nf4"
LORA, FULL, FROZEN = "lora", "full", "frozen"
AS_TARGETS = "as targets"
"""The projector's linears get an adapter where a target matches them: only for adapters that were read."""

A, B = "lora.a", "lora.b"
"""Ends of the paths of an adapter's two parameters."""

WHERE = "config.lora_targets"


class Lora(NamedTuple):
    """What `config.lora_*` says."""

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Ends of module paths, or regexes of whole ones; none: all linears of the decoder."""
    rs: bool = False
    base: str = BF16
    """How the decoder's frozen matrices are held: `BF16` (as all frozen parameters), or `NF4`."""
    projector: str = LORA

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rs else self.rank)


class Pair(NamedTuple):
    """Paths of an adapter's parameters; several adapters may have the same A."""

    a: str
    b: str


def lora_of(config: Any) -> Lora | None:
    """The LoRA of a run's config; None where nothing has an adapter."""
    if not config.lora_rank or config.strategy == "zeroshot":
        return None
    return Lora(
        rank=config.lora_rank,
        alpha=float(config.lora_alpha),
        dropout=float(config.lora_dropout),
        targets=tuple(config.lora_targets),
        rs=config.lora_rs,
        base=config.lora_base,
        projector=config.lora_projector,
    )


class Adapter(nnx.Module):
    """s · drop(x) A^T B^T, in x's dtype."""

    def __init__(self, linear: Linear, lora: Lora, name: str, a: nnx.Param | None):
        """Adapter of a linear; `name` gives its dropout, and `a` is its A, if it shares that of another."""
        *layers, out, width = linear.weight.shape
        *stacked, out_axis, in_axis = linear.weight.get_metadata("logical_axes")
        zeros = jnp.zeros((*layers, lora.rank, width), jnp.float32)
        self.a = nnx.Param(zeros, logical_axes=(*stacked, None, in_axis)) if a is None else a
        self.b = nnx.Param(jnp.zeros((*layers, out, lora.rank), jnp.float32), logical_axes=(*stacked, out_axis, None))
        self.key = nnx.data(None)
        self.scale, self.dropout, self.name = lora.scale, lora.dropout, name

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.key is not None:
            kept = jax.random.bernoulli(self.key[...], 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0).astype(x.dtype)
        low = product(x, self.a[...].astype(x.dtype))
        return product(low, self.b[...].astype(x.dtype)) * jnp.asarray(self.scale, x.dtype)


def adapt(module: nnx.Module, family: Family, lora: Lora) -> None:
    """Adds adapters to the module's linears, and turns those of its decoder into 4 bits if `lora` says so.

    Raises:
        InputError: a target matches nothing, or some layers of a stack only; or a matrix cannot be divided into blocks.
    """
    linears = _linears(module)
    shared: dict[str, nnx.Param] = {}
    for path in chosen(linears, family, lora):
        name = f"{path.rpartition('.')[0]}:{_source(path, family.names).name}"
        linears[path].lora = Adapter(linears[path], lora, name, shared.get(name))
        shared[name] = linears[path].lora.a
    if lora.base == NF4:
        for path, linear in linears.items():
            if is_in(path, family.parts().get("decoder", ())):
                if linear.weight.shape[-1] % BLOCK:
                    what = f"{path} has {linear.weight.shape[-1]:,} inputs, which are no multiple of {BLOCK}"
                    raise InputError(what, "config.lora_base", "give bf16")
                linear.weight = NF4Weight(linear.weight.shape, linear.weight.get_metadata("logical_axes"))


def pairs(module: nnx.Module, paths: Iterable[str]) -> dict[str, Pair]:
    """The adapters of a module by the path of their linear; `paths` are those of its parameters."""
    paths, owners = set(paths), {}
    adapters = {path: linear.lora for path, linear in _linears(module).items() if linear.lora is not None}
    for path, adapter in adapters.items():
        if f"{path}.{A}" in paths:
            owners[adapter.name] = f"{path}.{A}"
    return {path: Pair(owners[adapter.name], f"{path}.{B}") for path, adapter in adapters.items()}


def with_dropout(module: nnx.Module, key: jax.Array) -> nnx.Module:
    """The module, whose adapters drop inputs by keys made of `key`, another for each layer."""
    for _, adapter in nnx.iter_modules(module):
        if isinstance(adapter, Adapter) and adapter.dropout:
            own = jax.random.fold_in(key, zlib.crc32(adapter.name.encode()) & 0x7FFFFFFF)
            own = jax.random.split(own, adapter.a.shape[0]) if adapter.a[...].ndim == 3 else own
            adapter.key = nnx.Variable(own)
    return module


def chosen(linears: Mapping[str, Linear], family: Family, lora: Lora) -> list[str]:
    """Paths of the linears that get an adapter.

    Raises:
        InputError: a target matches nothing, or some layers of a stack only.
    """
    parts = family.parts()
    of_projector = {path for path in linears if is_in(path, parts.get("projector", ()))}
    if lora.projector in (FULL, FROZEN) and "projector" not in parts:
        what = f"{lora.projector!r}, and {family.name} has no projector"
        raise InputError(what, "config.lora_projector", "leave it out")
    allowed = {
        path: linears[path] for path in linears if lora.projector in (LORA, AS_TARGETS) or path not in of_projector
    }
    if lora.targets:
        found = {path for target in lora.targets for path in _matching(target, allowed, family, lora)}
    else:
        found = {path for path in linears if is_in(path, parts.get("decoder", ()))}
    if lora.projector == LORA:
        found |= of_projector
    return [path for path in linears if path in found]


def module_path(path: str, names: Names) -> str:
    """The path of a linear's module in transformers' model, `{}` for the layer's number: PEFT's names are made of it.

    It is the published name, with the first alias of its prefix, as transformers renames what it loads.
    """
    return inside(_source(path, names).name, names).removesuffix(".weight")  # a prefix may be all of the path


def inside(name: str, names: Names) -> str:
    """A published name as transformers' model has it."""
    for alias, prefix in sorted(names.aliases, key=lambda pair: -len(pair[1])):
        if name.startswith(prefix) and not name.startswith(alias):
            return alias + name.removeprefix(prefix)
    return name


def adapter_sources(pairs: Mapping[str, Pair], names: Names) -> dict[str, Source]:
    """PEFT's names of adapters' parameters, without its prefix: by our paths, as in `Names.published`."""
    sources = {}
    for path, pair in pairs.items():
        source, module = _source(path, names), module_path(path, names)
        sources[pair.a] = Source(f"{module}.lora_A.weight", source.number)
        sources[pair.b] = Source(f"{module}.lora_B.weight", source.number, source.part)
    return sources


def first_adapters(structs: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> dict[str, jax.Array]:
    """Adapters before the first step: A uniform within ±1 / sqrt(in), as PEFT's, B zero; the model is then the base.

    Args:
        structs: shapes and shardings by path.
    """

    def draw(path: str, struct: jax.ShapeDtypeStruct) -> jax.Array:
        if path.endswith(B):
            return jnp.zeros(struct.shape, struct.dtype)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()) & 0x7FFFFFFF)
        bound = struct.shape[-1] ** -0.5
        return jax.random.uniform(key, struct.shape, struct.dtype, -bound, bound)

    def all_of_them() -> dict[str, jax.Array]:
        return {path: draw(path, struct) for path, struct in structs.items()}

    return jax.jit(all_of_them, out_shardings={path: struct.sharding for path, struct in structs.items()})()


def is_adapter(path: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return path.endswith((f".{A}", f".{B}"))


def is_in(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a path is one of the prefixes, or below one."""
    return any(f"{path}.".startswith(f"{prefix}.") for prefix in prefixes)


def _linears(module: nnx.Module) -> dict[str, Linear]:
    """The module's linears by path."""
    found = ((".".join(map(str, path)), each) for path, each in nnx.iter_modules(module) if isinstance(each, Linear))
    return dict(sorted(found))


def _source(path: str, names: Names) -> Source:
    source = names.published[f"{path}.weight"]
    return Source(source) if isinstance(source, str) else source


def _matching(target: str, linears: Mapping[str, Linear], family: Family, lora: Lora) -> list[str]:
    """The linears that a target matches, as PEFT matches it: a name is the end of a module's path, else a regex."""
    try:
        pattern = re.compile(rf"(?:.*\.)?{re.escape(target)}" if re.fullmatch(r"[\w.]+", target) else target)
    except re.error as error:
        raise InputError(f"{_shown(target)} is no regex ({error})", WHERE, "write it as Python's re takes it") from None
    found, known = [], set()
    for path, linear in linears.items():
        source, module = _source(path, family.names), module_path(path, family.names)
        layers = range(linear.weight.shape[0] if "{}" in module else 1)
        names = [module.format(source.number(layer)) for layer in layers]
        hits = [name for name in names if pattern.fullmatch(name)]
        if hits and len(hits) < len(names):
            what = f"{_shown(target)} matches {len(hits)} of the {len(names)} layers of {module.replace('{}', '*')}"
            raise InputError(what, WHERE, "match all or none of a stack's layers: their adapters are one array")
        known.add(module.rpartition(".")[2])
        found += [path] * bool(hits)
    if not found:
        also = "" if lora.projector == LORA else f" outside the projector (config.lora_projector={lora.projector})"
        hint = "give ends of the names of linears such as q_proj, or a regex of whole module paths in transformers"
        raise InputError(f"{_shown(target)} matches no linear{also}{nearest(target, known)}", WHERE, hint)
    return found


def _shown(target: str) -> str:
    return repr(target if len(target) <= 80 else f"{target[:79]}…")
