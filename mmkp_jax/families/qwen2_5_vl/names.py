"""Names of Qwen2.5-VL's tensors: paths in our parameters, and as published on the hub.

One table, read in both directions. `{}` is the layer number, which is the leading axis in our parameters.
"""

from mmkp_jax.models.family import Names


def _linear(ours: str, theirs: str, *, bias: bool = True) -> dict[str, str]:
    return {f"{ours}.{part}": f"{theirs}.{part}" for part in (("weight", "bias") if bias else ("weight",))}


def _mlp(ours: str, theirs: str, *, bias: bool) -> dict[str, str]:
    names = [_linear(f"{ours}.{part}", f"{theirs}.{part}_proj", bias=bias) for part in ("gate", "up", "down")]
    return {ours: theirs for table in names for ours, theirs in table.items()}


_PUBLISHED = {
    "visual.patch_embed.weight": "visual.patch_embed.proj.weight",
    "visual.blocks.norm1.scale": "visual.blocks.{}.norm1.weight",
    "visual.blocks.norm2.scale": "visual.blocks.{}.norm2.weight",
    **_linear("visual.blocks.qkv", "visual.blocks.{}.attn.qkv"),
    **_linear("visual.blocks.proj", "visual.blocks.{}.attn.proj"),
    **_mlp("visual.blocks.mlp", "visual.blocks.{}.mlp", bias=True),
    "visual.merger.norm.scale": "visual.merger.ln_q.weight",
    **_linear("visual.merger.up", "visual.merger.mlp.0"),
    **_linear("visual.merger.down", "visual.merger.mlp.2"),
    "decoder.embedding": "model.embed_tokens.weight",
    "decoder.layers.attention_norm.scale": "model.layers.{}.input_layernorm.weight",
    "decoder.layers.mlp_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
    **_linear("decoder.layers.q", "model.layers.{}.self_attn.q_proj"),
    **_linear("decoder.layers.k", "model.layers.{}.self_attn.k_proj"),
    **_linear("decoder.layers.v", "model.layers.{}.self_attn.v_proj"),
    **_linear("decoder.layers.o", "model.layers.{}.self_attn.o_proj", bias=False),
    **_mlp("decoder.layers.mlp", "model.layers.{}.mlp", bias=False),
    "decoder.norm.scale": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
"""Published name by our path. A tied checkpoint has no `lm_head.weight`, or one that is not read."""

NAMES = Names(
    published=_PUBLISHED,
    aliases=(("model.visual.", "visual."), ("model.language_model.", "model.")),  # transformers 5's own names
    tied={"lm_head": "decoder.embedding"},
)
