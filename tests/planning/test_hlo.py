"""Counting in the text of compiled programs: loops, branches, bytes, and collectives."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from mmkp_jax.planning.collectives import group_of
from mmkp_jax.planning.counts import _positions, count_program
from mmkp_jax.planning.hlo import Array, parse_hlo
from tests.support.devices import fake_devices
from tests.support.paths import ROOT


def counted(function, *shapes, true_share=0.5):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_program(parse_hlo(jax.jit(function).lower(*args).compile().as_text()), true_share)


def test_a_product_in_a_loop_counts_once_an_iteration():
    def looped(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    once = counted(lambda x, w: x @ w, (64, 128), (128, 32)).flops
    assert once == 2 * 64 * 128 * 32
    assert counted(looped, (64, 128), (128, 128)).flops == 7 * 2 * 64 * 128 * 128


def test_a_loop_in_a_loop_and_batched_products():
    def looped(x, w):
        def inner(x, _):
            return jnp.einsum("bij,bjk->bik", x, w), None

        return jax.lax.scan(lambda x, _: (jax.lax.scan(inner, x, length=3)[0], None), x, length=5)[0]

    assert counted(looped, (4, 16, 16), (4, 16, 16)).flops == 15 * 4 * 2 * 16**3


@pytest.mark.parametrize("share", [0.0, 0.125, 1.0])
def test_each_of_two_branches_counts_by_its_share(share):
    def either(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: (x @ w) @ w, lambda: x @ w)

    product = 2 * 32 * 64 * 64
    assert counted(either, (32, 64), (64, 64), true_share=share).flops == pytest.approx(product * (1 + share))


def test_an_iteration_reads_one_layers_weights_not_the_whole_stack():
    """A scan over stacked matrices reads each once: bytes grow with the layers, not with their square."""

    def layers(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    few, many = (counted(layers, (8, 256), (n, 256, 256)).bytes for n in (4, 16))
    matrix = 4 * 256 * 256
    assert many - few >= 12 * matrix
    assert many - few <= 3.5 * 12 * matrix  # sliced out, and read; a CPU's copies between


@pytest.mark.parametrize(
    "dtype, bytes", [("f32", 4), ("bf16", 2), ("pred", 1), ("s32", 4), ("u8", 1), ("f64", 8), ("s4", 0.5)]
)
def test_bytes_of_a_dtype(dtype, bytes):
    assert Array(dtype, (3, 5), True).bytes == 15 * bytes


def test_a_convolution_that_is_a_batch_of_products_does_not_count_padding():
    """As a TPU's compiler writes [208 x 16] products: one axis, as long as the kernel, that meets at one position."""
    text = """HloModule m

ENTRY %main (a: f32[208,64,16,80], b: f32[208,64,16,80]) -> f32[208,16,64,64] {
  %a = f32[208,64,16,80]{3,2,1,0} parameter(0)
  %b = f32[208,64,16,80]{3,2,1,0} parameter(1)
  ROOT %c = f32[208,16,64,64]{3,2,1,0} convolution(%a, %b), \
window={size=208x16 stride=207x15 lhs_dilate=208x16}, dim_labels=0b1f_0o1i->01bf
}
"""
    assert count_program(parse_hlo(text), 0.5).flops == 2 * 208 * 16 * 64 * 64 * 80


def test_products_of_a_library_are_counted_and_kernels_apart_from_them():
    """As XLA writes them for a GPU: a product with its workspace, and tokamax's kernels."""
    config = '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],\
"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}'
    text = f"""HloModule m

ENTRY %main (a: bf16[3,8,16], b: bf16[3,16,4]) -> bf16[3,8,4] {{
  %a = bf16[3,8,16]{{2,1,0}} parameter(0)
  %b = bf16[3,16,4]{{2,1,0}} parameter(1)
  %c = (bf16[3,8,4]{{2,1,0}}, s8[1024]{{0}}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={config}
  %d = bf16[3,8,4]{{2,1,0}} get-tuple-element(%c), index=0
  %e = bf16[3,8,4]{{2,1,0}} custom-call(%d), custom_call_target="mosaic_gpu_v2"
  ROOT %f = bf16[3,8,4]{{2,1,0}} custom-call(%e), custom_call_target="__gpu$xla.gpu.triton"
}}
"""
    counts = count_program(parse_hlo(text), 0.5)
    assert (counts.flops, counts.kernels) == (2 * 3 * 8 * 16 * 4, 2)
    assert counts.bytes == 2 * 3 * (8 * 16 + 16 * 4 + 5 * 8 * 4)  # without the workspace


def test_padding_of_a_convolution_is_not_counted():
    assert _positions(2, 2, 2, stride=1, before=1, spread=1, gap=1) == 3  # one of 4 positions is padding
    assert _positions(5, 3, 3, stride=1, before=0, spread=1, gap=1) == 9


def test_iterations_of_a_loop_without_a_note_follow_from_its_bound_and_step():
    text = """HloModule m

%body (p: (u32[], f32[8,8])) -> (u32[], f32[8,8]) {
  %p = (u32[], f32[8,8]{1,0}) parameter(0)
  %i = u32[] get-tuple-element(%p), index=0
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  %x = f32[8,8]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
  %y = f32[8,8]{1,0:T(8,128)S(1)} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (u32[], f32[8,8]{1,0}) tuple(%next, %y)
}

%condition (p: (u32[], f32[8,8])) -> pred[] {
  %p = (u32[], f32[8,8]{1,0}) parameter(0)
  %i = u32[] get-tuple-element(%p), index=0
  %bound = u32[] constant(9)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (p: (u32[], f32[8,8])) -> (u32[], f32[8,8]) {
  %p = (u32[], f32[8,8]{1,0}) parameter(0)
  ROOT %w = (u32[], f32[8,8]{1,0}) while(%p), condition=%condition, body=%body
}
"""
    counts = count_program(parse_hlo(text), 0.5)
    assert counts.flops == 5 * 2 * 8**3  # 0, 2, 4, 6, 8
    assert counts.bytes < 100  # the counter; the matrices stay in memory on the chip


@pytest.mark.parametrize(
    "attributes, group",
    [
        ("replica_groups={{0,2},{1,3}}, dimensions={0}", [0, 2]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, use_global_device_ids=true", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", [0, 4]),
        ("channel_id=1, source_target_pairs={{0,7},{1,0}}", [0, 7]),
        ("replica_groups={}", list(range(8))),
    ],
)
def test_groups_are_read_in_every_notation(attributes, group):
    assert group_of(attributes, 8) == group


def test_collectives_of_eight_devices_are_counted_in_bytes_and_times():
    """In a process with eight fake devices; what each device sends, on rings."""
    command = [sys.executable, "-m", "tests.support.sends"]
    done = subprocess.run(command, cwd=ROOT, env=fake_devices(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    sent = json.loads(done.stdout.splitlines()[-1])
    part, whole = 4 * 16 * 128, 4 * 128 * 128
    assert sent["gathered"] == {"all-gather": [5, 5 * 7 * part, 5 * 7 * part]}
    assert sent["summed"] == {"all-reduce": [1, 2 * 7 / 8 * whole, 2 * 7 / 8 * whole]}
    assert sent["within"] == {"all-reduce": [1, 2 * 3 / 4 * whole, 0]}
