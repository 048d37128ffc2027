"""Checks of a config against the table of fields: every fault that needs no model, data or devices, at once."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mmkp_jax.errors import InputError, all_of, nearest
from mmkp_jax.runtime.field_types import REQUIRED, Field
from mmkp_jax.runtime.fields import FIELDS, field_named, leaves
from mmkp_jax.runtime.old_configs import MOVED
from mmkp_jax.runtime.program import command_line

SEE_HELP = f"see {command_line('main')} --help"

WHOLE = 2**63
"""Bound of whole numbers: below it, and not below its negative."""


class Fault(NamedTuple):
    """A fault in the value of a field."""

    name: str
    value: Any
    """The value; `REQUIRED` where the config lacks the field."""
    what: str
    expected: str
    """Description of valid values."""
    hint: str = ""
    """How to fix it, where giving an expected value is not the fix."""

    def error(self) -> InputError:
        """The InputError for this fault."""
        return InputError(self.what, f"config.{self.name}", self.hint or f"give {self.expected}")


def check_settings(config: Any, fields: Sequence[Field] = FIELDS) -> None:
    """Checks everything that needs only the config (a `ConfigDict`).

    Raises:
        InputError: fields are unknown, missing, of a wrong type, out of range, or inconsistent; all are named.
    """
    content = config.to_dict()
    faults = list(faults_of(content, fields))
    if {field.name for field in fields} >= {field.name for field in FIELDS}:
        faults += _together(content, {fault.name for fault in faults})
    if faults:
        raise all_of([fault.error() for fault in faults], SEE_HELP)


def faults_of(
    content: Mapping[str, Any], fields: Sequence[Field] = FIELDS, *, open_ended: bool = False
) -> Iterator[Fault]:
    """The faults of a config in plain values, in the table's order.

    Args:
        open_ended: ignore fields that the table lacks.
    """
    values = dict(leaves(content))
    lost: set[str] = set()
    for field in fields:
        for above in _above(field.name):
            if above in values and above not in lost:
                lost.add(above)
                yield Fault(above, values[above], f"{_shown(values[above])} is not a mapping of fields", "an object")
        if not lost.intersection(_above(field.name)):
            yield from _faults_of_field(field, values)
    if not open_ended:
        known = {field.name for field in fields} | lost
        for name in values:
            if name not in known and not known.intersection(_above(name)):
                yield unknown(name, values[name], fields)


def unknown(name: str, value: Any, fields: Sequence[Field] = FIELDS) -> Fault:
    """The fault of an unknown name."""
    if name in MOVED:
        return Fault(name, value, f"{name!r} is now {MOVED[name]!r}", "a field", f"give config.{MOVED[name]}")
    if below := [field.name for field in fields if field.name.startswith(f"{name}.")]:
        return Fault(name, value, f"{name!r} is a section", "a field", f"give one of its fields, such as {below[0]}")
    close = nearest(name, [field.name for field in fields])
    what = f"unknown key {name!r}{close * ('did you mean' in close)}"  # without the list of all names, about 70
    return Fault(name, value, what, "a field", SEE_HELP)


def fault_of(field: Field, name: str, value: Any) -> Fault | None:
    """The fault of a value; None where it is valid.

    Args:
        name: the field's name, or that of a number in a mapping field.
    """
    default, expected = field.default, field.expected
    if isinstance(default, dict):
        if name == field.name:
            hint = f"give --config.{name}.{(*field.keys, 'NAME')[0]}=NUMBER, or nothing for the default"
            return None if value == {} else Fault(name, value, f"{_shown(value)} is not a mapping", expected, hint)
        if field.keys and (key := name.removeprefix(f"{field.name}.")) not in field.keys:
            what, hint = f"unknown key {key!r}{nearest(key, field.keys)}", f"give {' or '.join(field.keys)}"
            return Fault(name, value, what, expected, hint)
        default, expected = 0, field.expected.replace("mapping of names to whole numbers", "whole number")
    if field.choices and isinstance(default, tuple):
        if not _is_of_type(value, default):
            return Fault(name, value, f"{_shown(value)} is not a list of texts", expected)
        found = [fault_of(field._replace(default=""), name, each) for each in value]
        return next(filter(None, found), None)
    if field.choices:
        if value is None or isinstance(value, str):
            if value in field.choices:
                return None
            known = [each for each in field.choices if each]
            what = f"unknown {name.rpartition('.')[2]} {_shown(value)}{nearest(str(value), known)}"
            return Fault(name, value, what, expected, f"choose {expected}")
        return Fault(name, value, f"{_shown(value)} is not text", expected, f"choose {expected}")
    if not _is_of_type(value, default):
        return Fault(name, value, f"{_shown(value)} is not {_type(expected)}", expected)
    if isinstance(default, str | tuple | bool) or _is_in_range(field, value):
        return None
    return Fault(name, value, f"{value} is out of range", expected)


def _faults_of_field(field: Field, values: Mapping[str, Any]) -> Iterator[Fault]:
    below = [field.name] if field.name in values else [name for name in values if name.startswith(f"{field.name}.")]
    if not below:
        yield Fault(field.name, REQUIRED, "it is missing", field.expected, "begin with configs/base.py")
    for name in below:
        if field_named(name, [field]) is None:
            yield Fault(field.name, {}, f"{name!r} is not a field", field.expected)
        elif fault := fault_of(field, name, values[name]):
            yield fault


def _above(name: str) -> list[str]:
    """The sections that contain a field: `a` and `a.b` for `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _is_of_type(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str)
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
    if isinstance(default, int):
        return isinstance(value, int) and -WHOLE <= value < WHOLE
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e300)


def _is_in_range(field: Field, value: float) -> bool:
    """Whether a number is finite and in a field's range."""
    return (
        math.isfinite(value) and field.low <= value <= field.high and (value < field.below or math.isinf(field.below))
    )


def _type(expected: str) -> str:
    return expected.partition(" from ")[0]


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < WHOLE else "a number of many digits"
    return text if len(text) <= 60 else text[:59] + "…"


UNSET_FREEZE = ((), field_named("freeze").default)
"""Values of `freeze` that a preset or the table gives, which LoRA replaces."""


def frozen_by_hand(content: Mapping[str, Any]) -> Fault:
    """The fault of a `freeze` that was set next to LoRA, which freezes all of the base's weights."""
    what = f"lora_rank={content['lora_rank']} freezes all of the base's weights"
    hint = "leave config.freeze out; config.lora_projector says what the projector does"
    return Fault("freeze", content["freeze"], what, "", hint)


def _together(content: Mapping[str, Any], invalid: Collection[str]) -> Iterator[Fault]:
    """Faults of fields that are valid alone but inconsistent together; `invalid` ones are skipped."""

    def valid(*names: str) -> bool:
        return not any(each == name or each.startswith(f"{name}.") for name in names for each in invalid)

    if valid("strategy", "num_epochs", "total_steps") and (
        content["strategy"] != "zeroshot" and not content["num_epochs"] and not content["total_steps"]
    ):
        what = "num_epochs is 0 and total_steps is 0"
        yield Fault("num_epochs", 0, what, "", "give one of them; total_steps wins where both are given")
    if valid("lora_rank", "freeze") and content["lora_rank"] and tuple(content["freeze"]) not in UNSET_FREEZE:
        yield frozen_by_hand(content)
    if valid("mesh"):
        sizes = list(content["mesh"].values())
        if 0 in sizes or sizes.count(-1) > 1:
            yield Fault("mesh", sizes, f"sizes {content['mesh']}", "", "give positive sizes, at most one of them -1")
    if valid("global_batch_size", "accumulation_steps"):
        rows, steps = content["global_batch_size"], content["accumulation_steps"]
        if rows % steps:
            what = f"{rows} rows do not divide into {steps} micro-batches"
            yield Fault("global_batch_size", rows, what, "", f"give a multiple of {steps}")
