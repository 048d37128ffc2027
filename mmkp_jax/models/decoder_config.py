"""The geometry of a causal decoder with rotary positions: what Qwen2, Llama and the decoders built on them share."""

import dataclasses

from mmkp_jax.models.rope import Rope


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The config of a decoder, and of a text-only model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    qkv_bias: bool
    """Whether the products of queries, keys and values have a bias; no other has."""
    tie_embeddings: bool | None
    """None where the config leaves it to the files (`models.family.Family.read_config`)."""
