"""Mesh presets compile, at reduced depth: for their own chips where the compiler is installed, else on fake devices."""

import importlib.util

import jax
import pytest

from configs import dyncot
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.models.definition import Params
from mmkp_jax.models.freezing import split_params
from mmkp_jax.planning.compiling import COMPILERS
from mmkp_jax.planning.estimate import estimate_step, slots_flops
from mmkp_jax.planning.search import compile_workload
from mmkp_jax.planning.topologies import Topology, read_topology
from mmkp_jax.planning.workload import Workload, load_of
from tests.support.needs_tokamax import needs_tokamax

ROW = {"tokens": 1024, "labels": 384, "examples": 8}
IMAGES = {"qwen2_5_vl": {"patches": 2304, "windows": 48}}
"""Slots for images of a row, by family."""

TOWERS = {"qwen2_5_vl": {"depth": 2, "fullatt_block_indexes": [1]}}
"""Changes of a tower's config that leave two layers of it, by family."""


def shallow(model: str, mesh: str) -> Workload:
    """A preset with two layers of the decoder and two of the tower, at the published widths."""
    config = dyncot.get_config(f"model={model},mesh={mesh}")
    published = {**known_config(config.model.path), "num_hidden_layers": 2}
    kind = published["model_type"]
    if kind in TOWERS:
        published["vision_config"] = {**published["vision_config"], **TOWERS[kind]}
    config.row.update(ROW)
    config.row.images = IMAGES.get(kind, {})
    config.data.path = "no/such/folder"
    definition = define(published)
    return Workload(config, published, "config.json", definition, load_of(config, definition))


def topology_of(name: str) -> Topology:
    """The named topology, or as many devices of this machine if its compiler is not installed."""
    topology = read_topology(name)
    modules, _ = COMPILERS[topology.chip.platform]
    return topology if any(map(importlib.util.find_spec, modules)) else read_topology(f"cpu:{topology.chips}")


OTHERS = [
    ("qwen2_5_vl_3b", "h100_1", "h100:1"),
    ("qwen2_5_vl_7b", "v6e_8", "v6e:2x4"),
    ("qwen2_5_vl_7b", "h100_8", "h100:8"),
    ("qwen2_5_7b", "v5e_16", "v5e:4x4"),
    ("llama3_2_1b", "h100_1", "h100:1"),
    ("llama3_2_3b", "v6e_8", "v6e:2x4"),
]


@pytest.mark.parametrize(
    "model, mesh, topology",
    [("qwen2_5_vl_3b", "v5e_16", "v5e:4x4"), *(pytest.param(*each, marks=pytest.mark.nightly) for each in OTHERS)],
)
def test_a_preset_compiles_with_its_parameters_divided_over_its_chips(model, mesh, topology):
    workload, topology = shallow(model, mesh), topology_of(topology)
    outcome = compile_workload(workload, topology, decoding=False)
    found = estimate_step(workload, topology, outcome)
    trained, frozen = split_params(
        workload.definition.shapes(), workload.definition.family.paths(workload.config.freeze)
    )
    whole = 12 * _size(trained) + 2 * _size(frozen)  # float32 with two moments; bf16
    assert sum(outcome.state.values()) == pytest.approx(whole / topology.chips, rel=0.01)
    assert outcome.programs["train"].arguments == pytest.approx(sum(outcome.state.values()), rel=0.02)
    kinds = {each.kind for each in found.collectives}
    assert not kinds if topology.chips == 1 else kinds & {"all-gather", "collective-permute"}
    if not found.counts.kernels:  # whose products are not visible
        assert found.counts.flops * topology.chips == pytest.approx(slots_flops(workload), rel=0.01)


@needs_tokamax
@pytest.mark.nightly
def test_with_tokamax_a_step_for_h100_holds_no_array_of_all_pairs_of_tokens_or_patches():
    """Where the compiler for GPUs is not installed, tokamax's plain XLA is compiled instead."""
    workload = shallow("qwen2_5_vl_3b", "h100_1")
    workload.config.attention = "tokamax"
    topology = topology_of("h100:1")
    outcome = compile_workload(workload, topology, decoding=False)
    found = estimate_step(workload, topology, outcome)
    assert bool(found.counts.kernels) == (topology.chip.platform == "gpu")
    shapes = {
        array.shape
        for computation in outcome.programs["train"].program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode != "bitcast"  # the square of a matrix, in another shape, on its way to a norm
        for array in instruction.arrays
    }
    for length in (ROW["tokens"], IMAGES["qwen2_5_vl"]["patches"]):
        assert not [shape for shape in shapes if shape.count(length) > 1]


def _size(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
