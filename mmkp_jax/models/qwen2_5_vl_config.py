"""The geometry of Qwen2.5-VL, read from a Hugging Face `config.json`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmkp_jax.errors import InputError

_MEND = "take the config.json published with the weights"


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Sizes in units of their own kind; `window_size` and `patch_size` in pixels."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    full_attention_layers: tuple[int, ...] = (7, 15, 23, 31)
    window_size: int = 112
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    in_channels: int = 3

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads

    @property
    def window_side(self) -> int:
        """Merged patches along a window's side."""
        return self.window_size // self.patch_size // self.merge_size

    @property
    def tile_size(self) -> int:
        """Patches of a whole window."""
        return (self.window_side * self.merge_size) ** 2


@dataclasses.dataclass(frozen=True)
class Qwen2_5_VLConfig:
    """The decoder, the token numbers, and the vision tower."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vision: VisionConfig
    tie_embeddings: bool
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    image_token_id: int = 151_655

    @property
    def head_dim(self) -> int:
        """Width of an attention head."""
        return self.hidden_size // self.num_heads


PUBLISHED_VISION = VisionConfig(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=2048)
"""The tower of the published 3B; the 7B differs in `out_hidden_size` only."""

QWEN2_5_VL_3B = Qwen2_5_VLConfig(
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=11_008,
    num_layers=36,
    num_heads=16,
    num_kv_heads=2,
    vision=PUBLISHED_VISION,
    tie_embeddings=True,
)
QWEN2_5_VL_7B = Qwen2_5_VLConfig(
    vocab_size=152_064,
    hidden_size=3584,
    intermediate_size=18_944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    vision=dataclasses.replace(PUBLISHED_VISION, out_hidden_size=3584),
    tie_embeddings=False,
)


def config_from_hf(published: Mapping[str, Any], where: str = "config.json") -> Qwen2_5_VLConfig:
    """The geometry in a `config.json` of Qwen2.5-VL: the published flat layout, or transformers 5's nested one.

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what this model does not do.
    """
    whole = _Part("config", published, where)
    text = _Part("text config", {**published, **whole.part("text_config").fields}, where)
    vision = whole.part("vision_config")
    rope = text.part("rope_parameters" if text.fields.get("rope_parameters") else "rope_scaling")
    rope = dataclasses.replace(rope, name="rope parameters")

    text.insist("hidden_act", ("hidden_act",), "silu")
    vision.insist("vision_config.hidden_act", ("hidden_act",), "silu")
    text.insist("use_sliding_window", ("use_sliding_window",), False)
    rope.insist("rope type", ("rope_type", "type"), "default", "mrope")

    tower = VisionConfig(
        depth=vision.count("depth"),
        hidden_size=vision.count("hidden_size"),
        intermediate_size=vision.count("intermediate_size"),
        num_heads=vision.count("num_heads"),
        out_hidden_size=vision.count("out_hidden_size"),
        full_attention_layers=vision.numbers("fullatt_block_indexes"),
        window_size=vision.count("window_size"),
        patch_size=vision.count("patch_size"),
        merge_size=vision.count("spatial_merge_size"),
        temporal_patch_size=vision.count("temporal_patch_size", default=2),
        in_channels=vision.count("in_channels", "in_chans", default=3),
    )
    config = Qwen2_5_VLConfig(
        vocab_size=text.count("vocab_size"),
        hidden_size=text.count("hidden_size"),
        intermediate_size=text.count("intermediate_size"),
        num_layers=text.count("num_hidden_layers"),
        num_heads=text.count("num_attention_heads"),
        num_kv_heads=text.count("num_key_value_heads"),
        vision=tower,
        tie_embeddings=whole.flag("tie_word_embeddings") or text.flag("tie_word_embeddings"),
        rms_norm_eps=text.number("rms_norm_eps"),
        rope_theta=dataclasses.replace(text, fields={**text.fields, **rope.fields}).number("rope_theta"),
        mrope_section=rope.numbers("mrope_section"),
        image_token_id=whole.count("image_token_id"),
    )
    _check_sizes(config, where)
    return config


@dataclasses.dataclass(frozen=True)
class _Part:
    """A JSON object of the file, from which fields are taken; null counts as absent."""

    name: str
    fields: Mapping[str, Any]
    where: str

    def part(self, name: str) -> "_Part":
        """The object under `name`, empty where there is none."""
        fields = self.fields.get(name, {})
        if not isinstance(fields, Mapping):
            raise self._error(name, fields, "a JSON object")
        return _Part(name, fields, self.where)

    def count(self, *names: str, default: int | None = None) -> int:
        """A whole number from 1 on, under the first of `names` that is there."""
        name, value = self._take(names, default)
        if type(value) is not int or value < 1:  # True is an int too
            raise self._error(name, value, "a whole number from 1 on")
        return value

    def number(self, name: str) -> float:
        """A number above 0."""
        _, value = self._take([name])
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self._error(name, value, "a number above 0")
        return float(value)

    def numbers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers from 0 on."""
        _, value = self._take([name])
        if not isinstance(value, list | tuple) or not all(type(each) is int and each >= 0 for each in value):
            raise self._error(name, value, "a list of whole numbers from 0 on")
        return tuple(value)

    def flag(self, name: str) -> bool:
        """True or false; false where it is absent."""
        _, value = self._take([name], default=False)
        if type(value) is not bool:
            raise self._error(name, value, "true or false")
        return value

    def insist(self, called: str, names: Sequence[str], *supported: Any) -> None:
        """Refuses a value that is not among `supported`; an absent one is the first of them."""
        _, value = self._take(names, supported[0])
        if value not in supported:
            mend = f"only {supported[0]!r} is implemented; use a checkpoint that has it"
            raise InputError(f"{called} is {value!r}", self.where, mend)

    def _take(self, names: Sequence[str], default: Any = None) -> tuple[str, Any]:
        for name in names:
            if self.fields.get(name) is not None:
                return name, self.fields[name]
        if default is None:
            raise InputError(f"the {self.name} has no {names[0]!r}", self.where, _MEND)
        return names[0], default

    def _error(self, name: str, value: Any, expected: str) -> InputError:
        return InputError(f"{name!r} of the {self.name} is {value!r}, not {expected}", self.where, _MEND)


def _check_sizes(config: Qwen2_5_VLConfig, where: str) -> None:
    """Checks that the sizes belong together, and tells all that do not at once."""
    D, N, K = config.hidden_size, config.num_heads, config.num_kv_heads
    section, tower = config.mrope_section, config.vision
    checks = {
        f"hidden_size {D} is no multiple of num_attention_heads {N}": D % N == 0,
        f"num_attention_heads {N} is no multiple of num_key_value_heads {K}": N % K == 0,
        f"mrope_section {list(section)} is not three numbers that sum to half of a head's width {config.head_dim}": (
            len(section) == 3 and 2 * sum(section) == config.head_dim
        ),
        f"image_token_id {config.image_token_id} is not below vocab_size {config.vocab_size}": (
            config.image_token_id < config.vocab_size
        ),
        f"vision_config.hidden_size {tower.hidden_size} is no multiple of 4 times its num_heads {tower.num_heads}": (
            tower.hidden_size % (4 * tower.num_heads) == 0  # a head turns pairs by row and pairs by column
        ),
        f"vision_config.out_hidden_size {tower.out_hidden_size} is not hidden_size {D}": tower.out_hidden_size == D,
        f"fullatt_block_indexes {list(tower.full_attention_layers)} goes beyond the tower's depth {tower.depth}": (
            all(layer < tower.depth for layer in tower.full_attention_layers)
        ),
        f"window_size {tower.window_size} is less than a merged patch": tower.window_side > 0,
    }
    if wrong := [what for what, holds in checks.items() if not holds]:
        raise InputError("; ".join(wrong), where, _MEND)
