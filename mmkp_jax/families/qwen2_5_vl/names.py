"""Names of Qwen2.5-VL's tensors: paths in our parameters, and as published on the hub.

One table, read in both directions. `{}` is the layer number, which is the leading axis in our parameters.
"""

from mmkp_jax.families.decoder_names import decoder_names, linear, swiglu
from mmkp_jax.models.family import Names

_PUBLISHED = {
    "visual.patch_embed.weight": "visual.patch_embed.proj.weight",
    "visual.blocks.norm1.scale": "visual.blocks.{}.norm1.weight",
    "visual.blocks.norm2.scale": "visual.blocks.{}.norm2.weight",
    **linear("visual.blocks.qkv", "visual.blocks.{}.attn.qkv"),
    **linear("visual.blocks.proj", "visual.blocks.{}.attn.proj"),
    **swiglu("visual.blocks.mlp", "visual.blocks.{}.mlp", bias=True),
    "visual.merger.norm.scale": "visual.merger.ln_q.weight",
    **linear("visual.merger.up", "visual.merger.mlp.0"),
    **linear("visual.merger.down", "visual.merger.mlp.2"),
    **decoder_names(qkv_bias=True),
}
"""Published name by our path. A tied checkpoint has no `lm_head.weight`, or one that is not read."""

NAMES = Names(
    published=_PUBLISHED,
    aliases=(("model.visual.", "visual."), ("model.language_model.", "model.")),  # transformers 5's own names
    tied={"lm_head": "decoder.embedding"},
)
