"""The mesh changes where numbers live, not what they are; and where each parameter lives can be read in a file."""

import json
import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from configs import dyncot, presets
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define, known_config
from mmkp_jax.models.definition import Definition, as_dtype, flatten
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import Lora, lora_of
from mmkp_jax.models.sharding import MESH_AXES, check_rules, make_mesh, param_shardings, sharding_table
from tests.support.devices import fake_devices
from tests.support.paths import ROOT
from tests.support.zoo import first_geometries

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def report():
    """What `sharded_step.py` prints, from a process with eight fake devices."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sharded_step"],
        cwd=ROOT,
        env=fake_devices(8),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Involuntary full rematerialization" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


MODELS = [param.values[0] for param in first_geometries()]
WITH_OTHER_MESHES = [f"qwen2_5_vl on {mesh}" for mesh in ("8x1x1", "1x8x1", "1x1x1 in 4 micro-batches")]


@pytest.mark.parametrize("mesh", [*WITH_OTHER_MESHES, *(f"{name} on 2x2x2" for name in MODELS)])
def test_three_steps_equal_one_device(report, mesh):
    """float32; 1e-5 of a metric's value and of a parameter's norm, where about 2e-7 is seen.

    AdamW's eps is 1e-3 there: at 1e-8 it makes a full step out of the rounding of a gradient that is nearly 0 (the
    key bias has such ones, since softmax hardly sees it), which no two orders of summation share.
    """
    assert report[mesh]["metric_error"] <= 1e-5
    assert report[mesh]["param_error"] <= 1e-5


def test_the_steps_move_between_targets_and_compile_once(report):
    assert len(report) == 5 + 2 * (len(MODELS) - 1)
    for mesh in report.values():
        assert [step["cot_share"] == 0 for step in mesh["metrics"]] == [True, False, False]
        assert mesh["metrics"][-1]["cot_share"] < 1 and mesh["metrics"][0]["posts"] == 15
        assert mesh["metrics"][-1]["loss_sft"] < mesh["metrics"][0]["loss_sft"]
        assert mesh["compilations"] == 1


def test_moments_are_sharded_as_their_parameters(report):
    assert all(mesh["moments_as_parameters"] for mesh in report.values())


def test_fsdp_and_tensor_axes_really_divide_parameters(report):
    divided = {mesh: each["sharded"] for mesh, each in report.items()}
    assert divided["qwen2_5_vl on 8x1x1"] == 0
    assert divided["qwen2_5_vl on 1x8x1"] >= 15
    assert divided["qwen2_5_vl on 2x2x2"] > divided["qwen2_5_vl on 1x8x1"]
    assert all(divided[f"{name} on 2x2x2"] >= 11 for name in MODELS)


PRESETS = [preset for preset in presets.PRESETS["model"] if not preset.startswith("pocket")]


def definition_of(preset: str, lora: Lora | None = None) -> Definition:
    """The published model of a preset."""
    return define(known_config(dyncot.get_config(f"model={preset}").model.path), lora=lora)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 4, 2)], ids=["1x8x1", "2x4x2"])
def test_the_sharding_of_every_parameter_is_in_the_golden_file(preset, sizes):
    """To accept a change: MMKP_UPDATE_GOLDEN=1 python -m pytest tests/models/test_sharding.py, and read the diff."""
    mesh = jax.sharding.AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
    text = sharding_table(definition_of(preset), mesh)
    file = GOLDEN / f"{preset}_{'x'.join(map(str, sizes))}.txt"
    if os.environ.get("MMKP_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def test_what_every_mesh_preset_keeps_on_a_chip_is_in_the_golden_file():
    """Parameters and optimizer of every model, trained in full and by LoRA; to accept a change, as above."""
    header = f"{'data x fsdp x tensor':22} {'rows':>5} {'micro-batches':>14} {'GB a chip':>10} {'lora':>8} {'qlora':>8}"
    lines = [f"{'mesh':10} {'model':18} {header}"]
    tunes = {tune: lora_of(dyncot.get_config(f"tune={tune}")) for tune in ("full", "lora", "qlora")}
    definitions = {preset: [definition_of(preset, lora) for lora in tunes.values()] for preset in PRESETS}
    for name in presets.MESHES:
        for preset, models in definitions.items():
            c = dyncot.get_config(f"model={preset},mesh={name}")
            sizes = tuple(8 if c.mesh[axis] == -1 else c.mesh[axis] for axis in MESH_AXES)
            mesh = jax.sharding.AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)
            kept = [_kept(definition, mesh, c) / 1e9 for definition in models]
            by = " x ".join(map(str, sizes))
            rows = f"{c.global_batch_size:>5} {c.accumulation_steps:>14}"
            lines.append(f"{name:10} {preset:18} {by:22} {rows} {kept[0]:>10.3f} {kept[1]:>8.3f} {kept[2]:>8.3f}")
    text, file = "\n".join(lines) + "\n", GOLDEN / "presets.txt"
    if os.environ.get("MMKP_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def _kept(definition, mesh, c):
    """Bytes of a chip: float32 with two moments for what trains, else bf16, or what a matrix in 4 bits takes."""
    local = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype),
        as_dtype(definition.shapes(), jnp.bfloat16),
        param_shardings(definition, mesh, c.sharding_rules),
    )
    trained, frozen = (flatten(part).values() for part in split_trained(definition, local, c.freeze))
    return 12 * sum(leaf.size for leaf in trained) + sum(leaf.size * leaf.dtype.itemsize for leaf in frozen)


def test_rows_of_every_mesh_preset_divide_over_its_chips():
    for name in presets.MESHES:
        c = dyncot.get_config(f"model=qwen2_5_vl_3b,mesh={name}")
        shards = c.mesh.data * (8 if c.mesh.fsdp == -1 else c.mesh.fsdp)
        assert c.global_batch_size % (c.accumulation_steps * shards) == 0, name


class InASlice(NamedTuple):
    """The attributes of a TPU device that a mesh needs."""

    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    process_index: int = 0


def test_data_divides_slices_first_and_a_mesh_across_them_is_one_line():
    devices = [InASlice(n, n // 4) for n in range(8)]
    with pytest.raises(InputError) as error:
        make_mesh({"data": 1, "fsdp": -1}, devices)
    assert str(error.value).startswith("config.mesh.data: 1 does not divide into 2 slices; make it a multiple of them")


@pytest.mark.parametrize(
    "sizes, line",
    [
        (
            {"data": 3},
            "config.mesh: 3 x 1 x 1 (data, fsdp, tensor) does not use exactly 8 devices; "
            "make the product of the sizes the number of devices, or one size -1",
        ),
        (
            {"data": 3, "fsdp": -1},
            "config.mesh: 3 x 2 x 1 (data, fsdp, tensor) does not use exactly 8 devices; "
            "make the product of the sizes the number of devices, or one size -1",
        ),
        (
            {"fdsp": 8},
            "config.mesh: unknown mesh axis 'fdsp' (did you mean 'fsdp'?); use data, fsdp, tensor",
        ),
        (
            {"data": -1, "fsdp": -1},
            "config.mesh: sizes {'data': -1, 'fsdp': -1}; give positive sizes, at most one of them -1",
        ),
        ({"data": 0}, "config.mesh: sizes {'data': 0}; give positive sizes, at most one of them -1"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_one_line(sizes, line):
    with pytest.raises(InputError) as error:
        make_mesh(sizes, jax.devices() * 8)
    assert str(error.value) == line


def test_rules_that_name_unknown_axes_are_one_line():
    with pytest.raises(InputError, match=r"unknown parameter axis 'mpl' \(did you mean 'mlp'\?\)"):
        check_rules({"mpl": "tensor"})
    with pytest.raises(InputError, match=r"rule 'mlp' names unknown mesh axis 'tensors' \(did you mean 'tensor'\?\)"):
        check_rules({"mlp": "tensors"})


def test_the_mesh_is_laid_out_by_the_compiler():
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    assert mesh.axis_types == (AxisType.Auto,) * 3 and dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
