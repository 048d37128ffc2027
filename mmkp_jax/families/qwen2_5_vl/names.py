"""Names of Qwen2.5-VL's tensors: as published on the hub, and as paths in our parameters.

One table, read in both directions. `{}` is the layer number, which is the leading axis in our parameters.
"""

from mmkp_jax.models.family import Names


def _linear(theirs: str, ours: str, *, bias: bool = True) -> dict[str, str]:
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in (("weight", "bias") if bias else ("weight",))}


def _mlp(theirs: str, ours: str, *, bias: bool) -> dict[str, str]:
    names = [_linear(f"{theirs}.{part}_proj", f"{ours}.{part}", bias=bias) for part in ("gate", "up", "down")]
    return {theirs: ours for table in names for theirs, ours in table.items()}


_OURS = {
    "visual.patch_embed.proj.weight": "visual.patch_embed.weight",
    "visual.blocks.{}.norm1.weight": "visual.blocks.norm1.scale",
    "visual.blocks.{}.norm2.weight": "visual.blocks.norm2.scale",
    **_linear("visual.blocks.{}.attn.qkv", "visual.blocks.qkv"),
    **_linear("visual.blocks.{}.attn.proj", "visual.blocks.proj"),
    **_mlp("visual.blocks.{}.mlp", "visual.blocks.mlp", bias=True),
    "visual.merger.ln_q.weight": "visual.merger.norm.scale",
    **_linear("visual.merger.mlp.0", "visual.merger.up"),
    **_linear("visual.merger.mlp.2", "visual.merger.down"),
    "model.embed_tokens.weight": "decoder.embedding",
    "model.layers.{}.input_layernorm.weight": "decoder.layers.attention_norm.scale",
    "model.layers.{}.post_attention_layernorm.weight": "decoder.layers.mlp_norm.scale",
    **_linear("model.layers.{}.self_attn.q_proj", "decoder.layers.q"),
    **_linear("model.layers.{}.self_attn.k_proj", "decoder.layers.k"),
    **_linear("model.layers.{}.self_attn.v_proj", "decoder.layers.v"),
    **_linear("model.layers.{}.self_attn.o_proj", "decoder.layers.o", bias=False),
    **_mlp("model.layers.{}.mlp", "decoder.layers.mlp", bias=False),
    "model.norm.weight": "decoder.norm.scale",
    "lm_head.weight": "lm_head",
}
"""Our path by published name. A tied checkpoint has no `lm_head.weight`, or one that is not read."""

NAMES = Names(
    ours=_OURS,
    aliases=(("model.visual.", "visual."), ("model.language_model.", "model.")),  # transformers 5's own names
    tied={"lm_head": "decoder.embedding"},
)
