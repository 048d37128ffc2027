"""A compiled program's text: its computations, their instructions, and how often each runs.

Only what planning reads. XLA's own cost analysis counts a loop's body once, and is not available for a GPU that is
not present, so the counts come from the text, with loops' bodies counted as often as they run.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
"""Bytes of an element by dtype; for other dtypes the digits in the name give the bits."""

_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRUE_FALSE = re.compile(r"true_computation=%?([\w.-]+), false_computation=%?([\w.-]+)")


class Array(NamedTuple):
    """An instruction's result, or one element of a tuple result."""

    dtype: str
    shape: tuple[int, ...]
    in_main_memory: bool
    """False for a memory on the chip (the layout names the space: `S(1)`)."""

    @property
    def bytes(self) -> float:
        """Size in bytes, without the layout's padding."""
        bits = re.search(r"\d+", self.dtype)
        each = BYTES.get(self.dtype, int(bits[0]) / 8 if bits else 4)
        return each * math.prod(self.shape)


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    arguments: str
    """The text between the parentheses."""
    attributes: str
    """The text after the parentheses."""


@dataclasses.dataclass
class Computation:
    """Instructions by name, in the order of the text."""

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)
    root: str = ""

    def operand_arrays(self, instruction: Instruction) -> list[Array]:
        """The results that an instruction reads."""
        return [array for name in instruction.operands for array in self.instructions[name].arrays]


class Execution(NamedTuple):
    """An instruction, how often it runs, and whether it is inside a fusion, whose inner results are never stored."""

    instruction: Instruction
    computation: Computation
    times: float
    fused: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """An HLO module."""

    computations: dict[str, Computation]
    entry: str

    def executions(self, true_share: float = 0.5) -> Iterator[Execution]:
        """Every instruction that runs, with the number of times that it runs.

        Args:
            true_share: how often a conditional takes its second branch, or its true one.
        """
        yield from self._executions(self.entry, 1.0, False, true_share)

    def _executions(self, name: str, times: float, fused: bool, true_share: float) -> Iterator[Execution]:
        computation = self.computations[name]
        for each in computation.instructions.values():
            yield Execution(each, computation, times, fused)
            if each.opcode == "while":
                body = _called(each, "body")
                yield from self._executions(body, times * self.trip_count(each), fused, true_share)
            elif each.opcode == "conditional":
                for branch, share in self._branches(each, true_share):
                    yield from self._executions(branch, times * share, fused, true_share)
            elif each.opcode in ("fusion", "call", "async-start", "custom-call"):
                for called in _CALLED.findall(each.attributes):
                    yield from self._executions(called, times, fused or each.opcode == "fusion", true_share)

    def trip_count(self, loop: Instruction) -> int:
        """Iterations of a loop: as the compiler notes them, or from its bound and step; 1 if neither is found."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(known[1])
        condition = self.computations[_called(loop, "condition")]
        compare = condition.instructions[condition.root]
        operands = [condition.instructions[name] for name in compare.operands]
        bound = next((int(each.arguments) for each in operands if each.opcode == "constant"), None)
        counter = next((each for each in operands if each.opcode == "get-tuple-element"), None)
        if compare.opcode != "compare" or bound is None or counter is None:
            return 1
        return -(-bound // self._step(_called(loop, "body"), int(re.search(r"index=(\d+)", counter.attributes)[1])))

    def _step(self, body: str, index: int) -> int:
        """By how much a loop's counter grows; 1 if that is not found."""
        computation = self.computations[body]
        root = computation.instructions[computation.root]
        following = computation.instructions[root.operands[index]] if root.opcode == "tuple" else root
        if following.opcode == "add":
            for name in following.operands:
                if (operand := computation.instructions[name]).opcode == "constant":
                    return int(operand.arguments)
        return 1

    def _branches(self, conditional: Instruction, true_share: float) -> list[tuple[str, float]]:
        if named := _TRUE_FALSE.search(conditional.attributes):
            return [(named[1], true_share), (named[2], 1 - true_share)]
        names = [each.strip().lstrip("%") for each in _BRANCHES.search(conditional.attributes)[1].split(",")]
        shares = (1 - true_share, true_share) if len(names) == 2 else (1 / len(names),) * len(names)
        return list(zip(names, shares, strict=True))


def parse_hlo(text: str) -> Program:
    """The program in the text of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _COMPUTATION.match(line)):
            current = computations[head[2]] = Computation(head[2])
            entry = head[2] if head[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3])
            current.instructions[found[2]] = instruction
            if found[1]:
                current.root = found[2]
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    """`f32[2]{0} add(%a, %b), attributes`; the result may be a tuple in parentheses."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    result, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing]
    return Instruction(
        name=name,
        opcode=rest[:opening],
        arrays=tuple(
            Array(dtype, tuple(int(n) for n in dims.split(",") if n), "S(" not in (layout or ""))
            for dtype, dims, layout in _ARRAY.findall(result)
        ),
        operands=tuple(re.findall(r"%([\w.-]+)", arguments)),
        arguments=arguments,
        attributes=rest[closing + 1 :],
    )


def _closing(text: str, opening: int) -> int:
    """The index at which the parenthesis opened at `opening` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"unclosed parenthesis in {text[opening : opening + 80]!r}")


def _called(instruction: Instruction, attribute: str) -> str:
    return re.search(rf"\b{attribute}=%?([\w.-]+)", instruction.attributes)[1]
