"""The plan command: its page, its table, its errors; and its figures against the programs that run."""

import dataclasses
import importlib.util
import json

import jax
import pytest

from mmkp_jax import plan
from mmkp_jax.data.forest import empty_rows
from mmkp_jax.decoding.prompts import padded_size
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.planning.compile_worker import lower_step
from mmkp_jax.planning.compiling import COMPILERS, Compiled, CompileOutcome
from mmkp_jax.planning.hlo import parse_hlo
from mmkp_jax.planning.search import STEPS, compile_workload, fits, largest_row, scaled, what_fits
from mmkp_jax.planning.topologies import CHIPS, GPUS, read_topology
from mmkp_jax.planning.workload import workload_of
from mmkp_jax.runtime.config import read_config
from mmkp_jax.training.setup import load_state, plan_training
from tests.support.tiny import hf_config_dict, tiny_config, write_model
from tests.support.trees import row_of

ROW = {"tokens": 256, "images.patches": 128, "images.windows": 8, "labels": 64, "examples": 4}
CONFIG = "configs/dyncot.py:model=qwen2_5_vl_3b,mesh=fsdp"


def flags_of(model, **fields) -> list[str]:
    fields = {
        "model.path": model,
        "compute_dtype": "float32",
        "global_batch_size": 2,
        "eval_batch_size": 2,
        "answer_tokens": 8,
        "data.images.max_pixels": 12_544,
        "data.max_text_tokens": 64,
        **{f"row.{name}": n for name, n in ROW.items()},
        **fields,
    }
    return [f"--config.{name}={value}" for name, value in fields.items()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a config.json and nothing else: planning reads no weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(hf_config_dict(tiny_config())))
    return folder


def test_the_page_reports_fit_memory_and_work(model, capsys):
    assert plan.main([f"--config={CONFIG}", "--topology=cpu:2", *flags_of(model)]) == 0
    page = capsys.readouterr().out
    for expected in (
        "2 of 2 chips, mesh data 1 x fsdp 2 x tensor 1",
        "FITS",
        "optimizer's moments (float32)",
        "tower",
        "the compiled program's products",
        "all-gather",
        "train in",
        "prefill in",
        "decode in",
        "typical: 34,515 posts",
    ):
        assert expected in page, expected
    assert "growth in" not in page  # prompts take as many pages of the cache as answers come to
    assert "at published rates" not in page  # a CPU has none


@pytest.mark.nightly
def test_moments_in_the_hosts_memory_are_reported_apart(model, capsys):
    moments = {}
    for memory in ("device", "host"):
        flags = [*flags_of(model), f"--config.moments_memory={memory}"]
        assert plan.main([f"--config={CONFIG}", "--topology=cpu:2", *flags]) == 0
        page = capsys.readouterr().out
        (line,) = (each for each in page.splitlines() if "optimizer's moments" in each)
        moments[memory] = line.split()[-3:]
        assert ("in the host's memory: moments, " in page) == (memory == "host")
    assert float(moments["device"][0]) > 0 == float(moments["host"][0])  # except counters


def test_memory_equals_that_of_the_program_that_runs(tmp_path):
    """The worker's figures against those of the step in this process, and of real arrays."""
    write_model(tmp_path)
    config = read_config(CONFIG, flags_of(tmp_path, **{"mesh.fsdp": 1, "answer_tokens": 200}))
    workload, topology = workload_of(config), read_topology("cpu:1")
    outcome = compile_workload(workload, topology, decoding=True)
    planned, prefill, decode, growth = (outcome.programs[name] for name in ("train", "prefill", "decode", "growth"))

    folder = open_folder(str(tmp_path))
    here = plan_training(config, folder.config, devices=jax.devices()[:1], total_steps=1000)
    memory = lower_step(config, here).compile().memory_analysis()
    assert planned.arguments == memory.argument_size_in_bytes
    assert planned.temporaries == memory.temp_size_in_bytes
    assert planned.results == memory.output_size_in_bytes - memory.alias_size_in_bytes
    state = load_state(here, folder)
    for kind, planned_bytes in outcome.state.items():
        assert planned_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state[kind])), kind
    rest = planned.arguments - sum(outcome.state.values())
    batch = 2 * (
        ROW["images.patches"] * 3 * 14 * 14
        + 4 * (7 * ROW["tokens"] + 3 * ROW["labels"] + 3 * ROW["images.patches"] + 8)
    )
    assert 0 <= rest - batch < 100  # and a few numbers: the step, γ
    keys_and_values = 2 * 3 * 2 * 2 * 16 * 4  # layers, slots, heads, their width, bytes; of each position
    row = padded_size([workload.prompt])
    cache = keys_and_values * 64 * -(-(row.tokens + config.answer_tokens) // 64)  # in pages of 64 positions
    decoder = here.definition.shapes()["decoder"]
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves((decoder["layers"], decoder["embedding"])))
    rest = decode.arguments - outcome.state["trainable"] - outcome.state["frozen"] - weights
    modes = 4 * config.eval_batch_size
    assert 0 <= rest - cache - prefill.results - modes < 200  # and the slots' state, and where their pages are
    trunks = sum(array.nbytes for array in jax.tree.leaves(empty_rows(1, row, here.definition.processor)))
    assert 0 <= prefill.arguments + prefill.results - decode.arguments - trunks < 100  # decoding's waits meanwhile
    assert decode.arguments + 0.7 * cache < growth.bytes < decode.arguments + cache  # a second one for a moment


@pytest.mark.nightly
def test_the_search_finds_the_largest_row_and_what_fits(model):
    config = read_config(CONFIG, flags_of(model, global_batch_size=1))
    workload, topology = workload_of(config), read_topology("cpu:1")
    outcome = compile_workload(workload, topology, decoding=False)
    takes = outcome.programs["train"].bytes

    def with_room(room: float):
        return topology._replace(chip=topology.chip._replace(memory=room))

    longer = workload.with_config(row=dataclasses.asdict(scaled(workload.row, 6)))
    roomy = with_room(compile_workload(longer, topology, decoding=False).programs["train"].bytes)
    largest = largest_row(workload, roomy, outcome)
    assert largest == longer.row and largest.tokens == 384

    tight = with_room(takes - outcome.state["optimizer"] / 4)
    assert fits(outcome, with_room(takes)) and not fits(outcome, tight)
    change = what_fits(workload, tight, outcome)
    assert change.flags == ("--config.moments_dtype=bfloat16",)
    assert 0.9 * takes < change.bytes + outcome.state["optimizer"] / 2 < 1.01 * takes


def test_evaluation_must_fit_next_to_the_optimizer():
    """It runs between steps: what its programs do not take as arguments stays in memory."""
    nothing = parse_hlo("ENTRY %main () -> f32[] {\n  ROOT %x = f32[] constant(0)\n}\n")
    state = {"trainable": 10.0, "frozen": 2.0, "optimizer": 20.0}
    step, decode = Compiled(32, 40, 0, 0, 1, nothing), Compiled(13, 30, 0, 1, 1, nothing)
    outcome = CompileOutcome(state, 0.0, {"data": 1, "fsdp": 1, "tensor": 1}, {"train": step, "decode": decode})
    topology = read_topology("cpu:1")
    assert (outcome.needs("train"), outcome.needs("decode")) == (72, 64)
    for room, has_room in ((72, True), (71, False)):
        assert fits(outcome, topology._replace(chip=topology.chip._replace(memory=room))) == has_room
    crowded = outcome._replace(programs={"train": step, "decode": decode._replace(temporaries=39.0)})
    assert not fits(crowded, topology._replace(chip=topology.chip._replace(memory=72)))


def test_rows_are_scaled_in_whole_lanes():
    row = row_of(4096, 11_520, 208, 1536, 16)
    assert scaled(row, STEPS) == row
    assert scaled(row, 2) == row_of(2048, 5760, 112, 768, 16)
    assert scaled(row, 5) == row_of(5120, 14_464, 272, 1920, 32)


@pytest.mark.parametrize(
    "flags, line",
    [
        ([], "python -m mmkp_jax.plan: --config is not given; see --help"),
        (["--config=configs/sft.py"], "python -m mmkp_jax.plan: --topology is not given; see --help"),
        (
            ["--config=configs/sft.py", "--topology=v6p:4x4"],
            "--topology=v6p:4x4: unknown chip 'v6p' (did you mean 'v6e'?); "
            "use one of cpu, v5e, v6e, v5p, l4, rtx4090, a100, h100, h200",
        ),
        (
            ["--config=configs/sft.py", "--topology=v5e:16"],
            "--topology=v5e:16: '16' is not a layout of its chips; write it as v5e:4x4, or v5e:4x4*2 for two slices",
        ),
        (
            ["--config=configs/sft.py", "--topology=h100:16"],
            "--topology=h100:16: a machine has at most 8 GPUs; write it as h100:8, or h100:8*2 for two machines",
        ),
        (
            ["--config=configs/sft.py", "--topology=cpu:1", "--price=-1"],
            "python -m mmkp_jax.plan: argument --price: '-1' is not a price; see --help",
        ),
    ],
)
def test_an_input_error_is_one_line(flags, line, capsys):
    assert plan.main(flags) == 2
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize("platform, topology", [("tpu", "v5e:4x4"), ("gpu", "h100:8")])
def test_a_compiler_that_is_not_installed_is_one_line_with_its_extra(platform, topology, capsys):
    modules, extras = COMPILERS[platform]
    if any(map(importlib.util.find_spec, modules)):
        pytest.skip(f"{modules} is installed")
    assert plan.main([f"--config={CONFIG}", f"--topology={topology}"]) == 2
    message = capsys.readouterr().err.strip()
    assert message.count("\n") == 0 and f"pip install -e '.[{extras[0]}]'" in message


def test_a_config_that_the_chips_cannot_take_is_one_line(model, capsys):
    assert plan.main([f"--config={CONFIG}", "--topology=cpu:3", *flags_of(model)]) == 2
    assert "config.global_batch_size: 2 rows do not divide" in capsys.readouterr().err


def test_chips_are_counted_over_slices():
    assert read_topology("v5p:2x2x4").chips == 16
    assert read_topology("v6e:16x16*2").chips == 512 and read_topology("h100:8*4").chips == 32
    assert set(GPUS) == {name for name, chip in CHIPS.items() if chip.platform == "gpu"}


@pytest.mark.nightly
def test_several_topologies_give_a_table(model, capsys):
    assert plan.main([f"--config={CONFIG}", "--topology=cpu:1,cpu:2", *flags_of(model)]) == 0
    head, rule, *rows, _, updates = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| topology | model | chips | fits") and set(rule) <= set("|- ")
    assert " updates of " in updates
    assert [row.split("|")[1].strip() for row in rows] == ["cpu:1", "cpu:2"]
