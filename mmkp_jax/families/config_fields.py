"""Reading a published `config.json`: sizes within limits, and values that are refused where they change the model.

Where two fields give one number, the one that transformers 5.23 uses counts. A null is an absent field.
"""

from collections.abc import Mapping
from typing import Any

from mmkp_jax.errors import InputError
from mmkp_jax.models.decoder_config import DecoderConfig
from mmkp_jax.models.rope import Llama3Scaling, Rope
from mmkp_jax.runtime.json_files import Fields, is_integer

HINT = "take the config.json published with the weights"

FULL_ATTENTION = "take a model without sliding windows, such as Qwen/Qwen2.5-3B-Instruct"

MOST_LAYERS, MOST_SIZE = 1_000, 10_000_000
"""Upper limits of the number of layers, and of every other size, in a file."""

MOST_SIDE = 10_000
"""Upper limit of the side of an image, a tile or a patch, in pixels."""

REFUSED = ("compression_config", "per_layer_config")
"""Fields that would change what transformers computes, in any part of a config."""


def present(fields: Fields) -> Fields:
    """The fields without nulls."""
    return fields._replace(content={name: value for name, value in fields.content.items() if value is not None})


def size(fields: Fields, name: str, *default: int, most: int = MOST_SIZE) -> int:
    """A whole number from 1 to `most`."""
    value = fields.integer(name, *default)
    if not 1 <= value <= most:
        fields.refuse(name, f"a whole number from 1 to {most:,}")
    return value


def side(fields: Fields, name: str, *default: int) -> int:
    """The side of a square in pixels, written as one number or as two equal ones."""
    value = fields.content.get(name, *default) if default else fields.content[name]
    sides = value if isinstance(value, list) else [value, value]
    is_square = len(sides) == 2 and sides[0] == sides[1]
    if not is_square or not is_integer(sides[0]) or not 1 <= sides[0] <= MOST_SIDE:
        fields.refuse(name, "the side of a square in pixels, or two equal ones")
    return sides[0]


def positive(fields: Fields, name: str, *default: float) -> float:
    """A number above 0."""
    value = fields.number(name, *default)
    if not value > 0:
        fields.refuse(name, "a number above 0")
    return float(value)


def whole_numbers(fields: Fields, name: str, *default: tuple[int, ...]) -> tuple[int, ...]:
    """A list of whole numbers from 0 on."""
    values = fields.numbers(name, *default)
    if not all(is_integer(value) and value >= 0 for value in values):
        fields.refuse(name, "a list of whole numbers from 0 on")
    return tuple(values)


def insist(fields: Fields, name: str, *supported: Any, hint: str = "") -> None:
    """Refuses a value that is not among `supported`; an absent one is the first of them.

    Args:
        hint: what to do about it, where published models have other values too; empty: the fields' own hint.
    """
    value = fields.content.get(name, supported[0])
    if value not in supported or isinstance(value, bool) != isinstance(supported[0], bool):
        every = " or ".join(map(repr, dict.fromkeys(supported)))
        fields._replace(hint=hint or fields.hint).refuse(name, f"{every}, which is all that is implemented")


def refuse_changed(*parts: Fields) -> None:
    """Refuses a quantised model, and other fields by which transformers computes something else."""
    for part in parts:
        for name in REFUSED:
            if name in part.content:
                part.refuse(name, "absent, which is all that is implemented")
        if "quantization_config" in part.content:
            kind = part.content["quantization_config"]
            method = str(kind.get("quant_method", "")) if isinstance(kind, Mapping) else ""
            name = f" by {method[:20].upper()}" if method else ""
            what = f"'quantization_config' says that the weights are quantised{name}"
            raise InputError(what, part.where, "take the checkpoint that is not quantised, in bfloat16")


def rope_fields(part: Fields) -> Fields:
    """The fields of the rotary embedding: in transformers `rope_scaling` has priority, unless it is empty."""
    names = [name for name in ("rope_scaling", "rope_parameters") if part.object(name, {}).content]
    rope = present(part.object(names[0] if names else "rope_scaling", {}))
    for name, value in rope.content.items():
        if isinstance(value, Mapping):
            rope.refuse(name, "a number: parameters of kinds of layers are not implemented")
    return rope


def rope_type(rope: Fields) -> str:
    """The name of the key that gives the kind of rotary embedding."""
    return "rope_type" if "rope_type" in rope.content else "type"


def read_rope(part: Fields, *kinds: str) -> Rope:
    """The rotary embedding of a decoder, of one of the `kinds` that its family implements: "default" or "llama3"."""
    rope = rope_fields(part)
    kind = rope_type(rope)
    insist(rope, kind, *kinds)
    for each in (part, rope):
        insist(each, "partial_rotary_factor", 1.0, 1)
    theta = positive(rope if "rope_theta" in rope.content else part, "rope_theta", 10_000.0)
    if rope.content.get(kind) != "llama3":
        return Rope(theta)
    before = part if "original_max_position_embeddings" in part.content else rope
    names = ("factor", "low_freq_factor", "high_freq_factor")
    factor, low, high = (positive(rope, name) for name in names)
    if high <= low:
        rope.refuse("high_freq_factor", f"a number above low_freq_factor {low:g}")
    return Rope(theta, Llama3Scaling(factor, low, high, size(before, "original_max_position_embeddings")))


def read_decoder(part: Fields, rope: Rope, *, qkv_bias: bool, tie_embeddings: bool | None) -> DecoderConfig:
    """A decoder's sizes, from the fields of a config without nulls (`present`).

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    insist(part, "hidden_act", "silu", "swish")
    D, N = size(part, "hidden_size"), size(part, "num_attention_heads")
    config = DecoderConfig(
        vocab_size=size(part, "vocab_size"),
        hidden_size=D,
        intermediate_size=size(part, "intermediate_size"),
        num_layers=size(part, "num_hidden_layers", most=MOST_LAYERS),
        num_heads=N,
        num_kv_heads=size(part, "num_key_value_heads", N),
        head_dim=size(part, "head_dim", max(D // N, 1)),
        rms_norm_eps=positive(part, "rms_norm_eps", 1e-6),
        rope=rope,
        qkv_bias=qkv_bias,
        tie_embeddings=tie_embeddings,
    )
    full = ["full_attention"] * config.num_layers
    if part.texts("layer_types", full) != full:
        fields = part._replace(hint=FULL_ATTENTION)
        fields.refuse("layer_types", f"{config.num_layers} times 'full_attention', which is all that is implemented")
    checks = {
        f"hidden_size {D} is no multiple of num_attention_heads {N}": D % N == 0,
        f"num_attention_heads {N} is no multiple of num_key_value_heads {config.num_kv_heads}": (
            N % config.num_kv_heads == 0
        ),
        f"head_dim {config.head_dim} is no multiple of 2": config.head_dim % 2 == 0,
    }
    check_all(checks, part.where)
    return config


def check_all(checks: Mapping[str, bool], where: str) -> None:
    """Raises one `InputError` with every fault whose check does not hold."""
    if wrong := [what for what, holds in checks.items() if not holds]:
        raise InputError("; ".join(wrong), where, HINT)
