"""Names of InternVL3's tensors in transformers' own layout: one table, read in both directions.

`{}` is the layer number, which is the leading axis in our parameters.
"""

from mmkp_jax.families.decoder_names import decoder_names, linear
from mmkp_jax.models.family import Names


def norm(ours: str, theirs: str) -> dict[str, str]:
    """The names of a layer norm's scale and bias."""
    return {f"{ours}.scale": f"{theirs}.weight", f"{ours}.bias": f"{theirs}.bias"}


DECODER = decoder_names(qkv_bias=True, prefix="language_model.model.", head="language_model.lm_head.weight")
"""Published name by our path, the same in both layouts."""

_BLOCK = "vision_tower.encoder.layer.{}"

_PUBLISHED = {
    **linear("tower.embed", "vision_tower.embeddings.patch_embeddings.projection"),
    "tower.embed.cls": "vision_tower.embeddings.cls_token",
    "tower.embed.position": "vision_tower.embeddings.position_embeddings",
    **norm("tower.blocks.norm1", f"{_BLOCK}.layernorm_before"),
    **norm("tower.blocks.norm2", f"{_BLOCK}.layernorm_after"),
    **{
        ours: theirs
        for each in "qkv"
        for ours, theirs in linear(f"tower.blocks.{each}", f"{_BLOCK}.attention.{each}_proj").items()
    },
    **linear("tower.blocks.proj", f"{_BLOCK}.attention.projection_layer"),
    **linear("tower.blocks.fc1", f"{_BLOCK}.mlp.fc1"),
    **linear("tower.blocks.fc2", f"{_BLOCK}.mlp.fc2"),
    "tower.blocks.ls1": f"{_BLOCK}.lambda_1",
    "tower.blocks.ls2": f"{_BLOCK}.lambda_2",
    **norm("projector.norm", "multi_modal_projector.layer_norm"),
    **linear("projector.up", "multi_modal_projector.linear_1"),
    **linear("projector.down", "multi_modal_projector.linear_2"),
    **DECODER,
}

NAMES = Names(
    published=_PUBLISHED,
    aliases=(  # transformers 5's own names, which folders of InternVL3.5 have
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ),
    tied={"lm_head": "decoder.embedding"},
)
