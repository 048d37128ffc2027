"""Seconds of a compiled step by part of the model, from JAX's trace of a run and the program's own stack frames."""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from mmkp_jax.planning.hlo import Computation, Instruction, Program, parse_hlo

CONTAINERS = {"while", "call", "conditional", "tuple", "get-tuple-element", "parameter"}
"""Operations whose time is that of others."""

PRODUCTS = {"dot", "convolution"}

NO_FRAME = "without a source"


def seconds_by_part(text: str, run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of operations, summed by part and by whether they are matrix products; empty if the trace has none.

    Operations of several threads may overlap, so the sum is not the time that passes.

    Args:
        text: the program, as `compiled.as_text()` has it.
        run: runs the program, as often as is to be counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        traces = list(Path(folder).rglob("*.trace.json.gz"))
        events = [event for trace in traces for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
    program, frames = parse_hlo(text), read_frames(text)
    labels = {
        each.name: _label(each, computation, program, frames)
        for computation in program.computations.values()
        for each in computation.instructions.values()
        if each.opcode not in CONTAINERS
    }
    seconds: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X":
            name = event.get("args", {}).get("hlo_op", event["name"]).lstrip("%")
            if name in labels:
                seconds[labels[name]] += event["dur"] / 1e6
    return dict(seconds.most_common())


def read_frames(text: str) -> dict[int, list[str]]:
    """The functions of each stack frame of a program, `file:function`, the innermost first."""
    files = dict(_table(text, "FileNames", r'(\d+) "(.*)"'))
    functions = dict(_table(text, "FunctionNames", r'(\d+) "(.*)"'))
    location = r"(\d+) \{file_name_id=(\d+) function_name_id=(\d+) "
    names = {
        number: f"{Path(files[file]).as_posix()}:{functions[function]}"
        for number, file, function in _table(text, "FileLocations", location)
    }
    own, parents = {}, {}
    for number, place, parent in _table(text, "StackFrames", r"(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}"):
        own[int(number)], parents[int(number)] = names[place], int(parent) - 1  # counted from 1, where 1 is none
    return {number: list(_outwards(number, own, parents)) for number in own}


def part_of(frames: list[str]) -> str:
    """The part of the step that a stack belongs to."""
    where = " ".join(frames)
    if not frames:
        return NO_FRAME
    if "forest_losses" not in where:
        return "optimizer and sums"
    if "label_nll" in where or "example_losses" in where:
        return "head and losses"
    attends = re.search(r"/ops/(attention|sliced|splash|tokamax\w*)\.py:", where)
    if ".encode" in where:
        if "Merger" in where:
            return "projector"
        return "tower's attention" if attends else "tower without attention"
    return "decoder's attention" if attends else "decoder without attention"


def frames_of(
    instruction: Instruction, computation: Computation, program: Program, frames: dict[int, list[str]]
) -> list[str]:
    """The stack of an operation: its own, else the most frequent of what it fuses, else of the nearest it reads."""
    seen, queue = {instruction.name}, [instruction]
    while queue:
        each = queue.pop(0)
        found = _frame_ids(each) or [n for fused in _with_fused(each, program) for n in _frame_ids(fused)]
        if found:
            return frames.get(int(collections.Counter(found).most_common(1)[0][0]), [])
        inputs = [name for name in each.operands if name not in seen and name in computation.instructions]
        seen.update(inputs)
        queue += [computation.instructions[name] for name in inputs]
    return []


def _label(instruction: Instruction, computation: Computation, program: Program, frames: dict[int, list[str]]) -> str:
    part = part_of(frames_of(instruction, computation, program, frames))
    return part if part == NO_FRAME else f"{part}, {'products' if has_product(instruction, program) else 'rest'}"


def has_product(instruction: Instruction, program: Program) -> bool:
    """Whether an operation is a matrix product, or fuses one."""
    each = list(_with_fused(instruction, program))
    return any(one.opcode in PRODUCTS or "gemm" in one.attributes for one in each)


def _with_fused(instruction: Instruction, program: Program) -> Iterator[Instruction]:
    yield instruction
    if instruction.opcode == "fusion":
        for name in re.findall(r"\bcalls=%?([\w.-]+)", instruction.attributes):
            yield from program.computations[name].instructions.values()


def _frame_ids(instruction: Instruction) -> list[str]:
    return re.findall(r"\bstack_frame_id=(\d+)", instruction.attributes)


def _outwards(number: int, own: dict[int, str], parents: dict[int, int]) -> Iterator[str]:
    while number in own:
        yield own[number]
        number = parents[number]


def _table(text: str, title: str, row: str) -> list[tuple[str, ...]]:
    """Rows of a table at a program's top."""
    found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.M)
    return re.findall(f"^{row}", found[1], re.M) if found else []
