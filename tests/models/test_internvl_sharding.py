"""InternVL3's parameters on a mesh: alike in both layouts, and what the paper freezes."""

import jax
import pytest
from jax.sharding import AxisType

from mmkp_jax.families.registry import define, known_config
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.freezing import split_params
from mmkp_jax.models.sharding import MESH_AXES, sharding_table


@pytest.mark.parametrize("size", ["2B", "8B"])
def test_the_original_layout_is_sharded_alike(size):
    mesh = jax.sharding.AbstractMesh((1, 8, 1), MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    tables = {sharding_table(define(known_config(f"OpenGVLab/InternVL3-{size}{end}")), mesh) for end in ("", "-hf")}
    assert len(tables) == 1


def test_the_papers_freeze_leaves_projector_and_decoder_to_train():
    """The class token, positions and layer scales are the tower's too."""
    definition = define(known_config("OpenGVLab/InternVL3-2B-hf"))
    trained, frozen = split_params(definition.shapes(), definition.family.paths(["tower"]))
    assert {path.split(".")[0] for path in flatten(trained)} == {"projector", "decoder", "lm_head"}
    assert {path.split(".")[0] for path in flatten(frozen)} == {"tower"}
    assert {"tower.embed.cls", "tower.embed.position", "tower.blocks.ls1"} <= flatten(frozen).keys()
