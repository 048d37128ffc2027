"""The geometry of Qwen2 and Qwen2.5, read from a Hugging Face `config.json`."""

from collections.abc import Mapping
from typing import Any

from mmkp_jax.families.config_fields import (
    FULL_ATTENTION,
    HINT,
    insist,
    present,
    read_decoder,
    read_rope,
    refuse_changed,
)
from mmkp_jax.models.decoder_config import DecoderConfig
from mmkp_jax.runtime.json_files import Fields


def config_from_hf(published: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """The geometry in a `config.json` of Qwen2, as published or as transformers 5 writes it.

    Raises:
        InputError: a field is missing, of another type, at odds with another, or asks for what is not implemented.
    """
    part = present(Fields(published, where, HINT))
    refuse_changed(part)
    insist(part, "use_sliding_window", False, hint=FULL_ATTENTION)
    part.integer("num_key_value_heads")  # which transformers would take for 32 where it is absent
    rope = read_rope(part, "default")
    return read_decoder(part, rope, qkv_bias=True, tie_embeddings=part.flag("tie_word_embeddings", False))
