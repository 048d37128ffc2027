"""Names of Llama 3.2 Vision's tensors: paths in our parameters, and as published on the hub.

One table, read in both directions. `{}` is the layer number. The decoder's two stacks share the numbers of its layers.
"""

from mmkp_jax.families.decoder_names import decoder_names, linear, swiglu
from mmkp_jax.families.mllama.config import CROSS, PERIOD
from mmkp_jax.models.family import Names, Source


def number_of_self(index: int) -> int:
    """The number among all layers of the decoder of a layer of attention to tokens."""
    block, place = divmod(index, PERIOD - 1)
    return PERIOD * block + place + (place >= CROSS)


def number_of_cross(index: int) -> int:
    """The number among all layers of the decoder of a layer of cross-attention."""
    return PERIOD * index + CROSS


def _norm(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.scale": f"{theirs}.weight", f"{ours}.bias": f"{theirs}.bias"}


def _qkvo(ours: str, theirs: str) -> dict[str, str]:
    tables = [linear(f"{ours}.{each}", f"{theirs}.{each}_proj", bias=False) for each in "qkvo"]
    return {path: name for table in tables for path, name in table.items()}


def _blocks(ours: str, theirs: str) -> dict[str, str]:
    return {
        **_norm(f"{ours}.norm1", f"{theirs}.input_layernorm"),
        **_norm(f"{ours}.norm2", f"{theirs}.post_attention_layernorm"),
        **_qkvo(ours, f"{theirs}.self_attn"),
        **linear(f"{ours}.fc1", f"{theirs}.mlp.fc1"),
        **linear(f"{ours}.fc2", f"{theirs}.mlp.fc2"),
    }


_GLOBAL = "vision_model.global_transformer.layers.{}"

_TOWER = {
    "tower.embed.weight": "vision_model.patch_embedding.weight",
    "tower.embed.cls": "vision_model.class_embedding",
    "tower.embed.position": "vision_model.gated_positional_embedding.embedding",
    "tower.embed.position_gate": "vision_model.gated_positional_embedding.gate",
    "tower.embed.tile_position": "vision_model.gated_positional_embedding.tile_embedding.weight",
    "tower.embed.tile": "vision_model.pre_tile_positional_embedding.embedding.weight",
    "tower.embed.tile_gate": "vision_model.pre_tile_positional_embedding.gate",
    **_norm("tower.embed.norm", "vision_model.layernorm_pre"),
    **_blocks("tower.blocks", "vision_model.transformer.layers.{}"),
    **_norm("tower.between.norm", "vision_model.layernorm_post"),
    "tower.between.tile": "vision_model.post_tile_positional_embedding.embedding.weight",
    "tower.between.tile_gate": "vision_model.post_tile_positional_embedding.gate",
    **_blocks("tower.global_blocks", _GLOBAL),
    "tower.global_blocks.attention_gate": f"{_GLOBAL}.gate_attn",
    "tower.global_blocks.mlp_gate": f"{_GLOBAL}.gate_ffn",
}

_LAYER = "language_model.model.layers.{}"

_CROSS = {
    "decoder.cross.attention_norm.scale": f"{_LAYER}.input_layernorm.weight",
    "decoder.cross.mlp_norm.scale": f"{_LAYER}.post_attention_layernorm.weight",
    "decoder.cross.q_norm.scale": f"{_LAYER}.cross_attn.q_norm.weight",
    "decoder.cross.k_norm.scale": f"{_LAYER}.cross_attn.k_norm.weight",
    **_qkvo("decoder.cross", f"{_LAYER}.cross_attn"),
    **swiglu("decoder.cross.mlp", f"{_LAYER}.mlp", bias=False),
    "decoder.cross.attention_gate": f"{_LAYER}.cross_attn_attn_gate",
    "decoder.cross.mlp_gate": f"{_LAYER}.cross_attn_mlp_gate",
}


def _published() -> dict[str, str | Source]:
    decoder = decoder_names(qkv_bias=False, prefix="language_model.model.", head="language_model.lm_head.weight")
    return {
        **_TOWER,
        **linear("projector", "multi_modal_projector"),
        **{path: Source(name, number_of_self) if "{}" in name else name for path, name in decoder.items()},
        **{path: Source(name, number_of_cross) for path, name in _CROSS.items()},
    }


NAMES = Names(
    published=_published(),
    aliases=(  # transformers 5's own names
        ("model.language_model.", "language_model.model."),
        ("model.vision_model.", "vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ),
)
