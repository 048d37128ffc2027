"""Names of InternVL3's tensors in the original layout; the tower's queries, keys and values are one tensor there."""

from mmkp_jax.families.decoder_names import linear
from mmkp_jax.families.internvl.names import DECODER, norm
from mmkp_jax.models.family import Names, Source

_BLOCK = "vision_model.encoder.layers.{}"

NAMES = Names(
    published={
        **linear("tower.embed", "vision_model.embeddings.patch_embedding"),
        "tower.embed.cls": "vision_model.embeddings.class_embedding",
        "tower.embed.position": "vision_model.embeddings.position_embedding",
        **norm("tower.blocks.norm1", f"{_BLOCK}.norm1"),
        **norm("tower.blocks.norm2", f"{_BLOCK}.norm2"),
        **{
            f"tower.blocks.{each}.{part}": Source(f"{_BLOCK}.attn.qkv.{part}", part=(i, 3))
            for i, each in enumerate("qkv")
            for part in ("weight", "bias")
        },
        **linear("tower.blocks.proj", f"{_BLOCK}.attn.proj"),
        **linear("tower.blocks.fc1", f"{_BLOCK}.mlp.fc1"),
        **linear("tower.blocks.fc2", f"{_BLOCK}.mlp.fc2"),
        "tower.blocks.ls1": f"{_BLOCK}.ls1",
        "tower.blocks.ls2": f"{_BLOCK}.ls2",
        **norm("projector.norm", "mlp1.0"),
        **linear("projector.up", "mlp1.1"),
        **linear("projector.down", "mlp1.3"),
        **DECODER,
    },
    tied={"lm_head": "decoder.embedding"},
)
