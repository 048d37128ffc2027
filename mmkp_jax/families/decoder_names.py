"""Published names of the decoder that families share (`models.decoder`). `{}` is the layer number."""


def linear(ours: str, theirs: str, *, bias: bool = True) -> dict[str, str]:
    """The names of a linear layer's weight, and of its bias if it has one."""
    return {f"{ours}.{part}": f"{theirs}.{part}" for part in (("weight", "bias") if bias else ("weight",))}


def swiglu(ours: str, theirs: str, *, bias: bool) -> dict[str, str]:
    """The names of a gated MLP."""
    names = [linear(f"{ours}.{part}", f"{theirs}.{part}_proj", bias=bias) for part in ("gate", "up", "down")]
    return {ours: theirs for table in names for ours, theirs in table.items()}


def decoder_names(*, qkv_bias: bool, prefix: str = "model.", head: str = "lm_head.weight") -> dict[str, str]:
    """The names of `DecoderModel`'s parameters.

    Args:
        prefix: what the published names of the decoder begin with.
        head: the published name of the output matrix.
    """
    layer = f"{prefix}layers.{{}}."
    return {
        "decoder.embedding": f"{prefix}embed_tokens.weight",
        "decoder.layers.attention_norm.scale": f"{layer}input_layernorm.weight",
        "decoder.layers.mlp_norm.scale": f"{layer}post_attention_layernorm.weight",
        **linear("decoder.layers.q", f"{layer}self_attn.q_proj", bias=qkv_bias),
        **linear("decoder.layers.k", f"{layer}self_attn.k_proj", bias=qkv_bias),
        **linear("decoder.layers.v", f"{layer}self_attn.v_proj", bias=qkv_bias),
        **linear("decoder.layers.o", f"{layer}self_attn.o_proj", bias=False),
        **swiglu("decoder.layers.mlp", f"{layer}mlp", bias=False),
        "decoder.norm.scale": f"{prefix}norm.weight",
        "lm_head": head,
    }
