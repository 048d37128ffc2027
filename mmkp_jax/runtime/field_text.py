"""The table of fields as text: `main --help` and `docs/config.md`."""

import textwrap
from typing import Any

from mmkp_jax.runtime import baseline_fields
from mmkp_jax.runtime.field_types import CONTENT, LENGTH, MAY_DIFFER, OURS, PAPER, SAME, Field, Need
from mmkp_jax.runtime.fields import SECTIONS

WIDTH = 80
"""Width of `--help` in columns."""

SOURCES = {PAPER: "the paper's", OURS: "ours", "": ""}
RESUME_TEXT = {SAME: "", MAY_DIFFER: "yes", LENGTH: "with `--extend`", CONTENT: "with the same content"}

INTRODUCTION = """\
# Fields of an experiment

Written by `python -m mmkp_jax.runtime.fields > docs/config.md` from the table in `mmkp_jax/runtime/fields.py`.

`--config.gamma=0.3` sets a field, after the config's presets; `--config.row.images.patches=4096` sets a name of a
mapping, whose names depend on the model's family. Source: printed in the paper (arXiv 2510.09358), or ours where it
is silent; a field without a source does not affect what is learnt or scored, or has to be given by the user. On
resume: whether a resumed run may have another value than it started with. Baselines have fields of their own, at the
end, where the paper's means that of the baseline's own paper (CMKP).
"""


def as_help() -> str:
    """The fields by section, with default and description, for a terminal."""
    lines = ["fields of --config.key=value ([P] the paper's default, [C] ours):"]
    for section in (*SECTIONS, *baseline_fields.SECTIONS):
        lines += ["", f"  {section.title}"]
        for field in section.fields:
            choices = f" ({field.expected})" if field.choices else ""
            source = f" [{field.source}]" if field.source else ""
            text = f"{field.name}={field.default}: {field.about}{choices}{source}"
            lines += textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines)


def markdown() -> str:
    """The page `docs/config.md`."""
    return INTRODUCTION + "".join(
        f"\n## {section.title}\n\n| field | default | what it is | takes | source | on resume |\n"
        + "| --- | --- | --- | --- | --- | --- |\n"
        + "".join(_row(field) for field in section.fields)
        for section in (*SECTIONS, *baseline_fields.SECTIONS)
    )


def _row(field: Field) -> str:
    about = "; ".join([field.about, *_needs(field)])
    cells = (
        f"`{field.name}`",
        _default(field),
        about,
        field.expected,
        SOURCES[field.source],
        RESUME_TEXT[field.resume],
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: Field) -> str:
    if not field.default and isinstance(field.default, str | dict):
        return "empty"
    return f"`{', '.join(field.default) if isinstance(field.default, tuple) else field.default}`"


def _needs(field: Field) -> list[str]:
    """Text on the settings without which a field has no effect."""
    return [
        f"only with {_settings(need, need.only)}" if need.only else f"not with {_settings(need, need.never)}"
        for need in field.needs
    ]


def _settings(need: Need, values: tuple[Any, ...]) -> str:
    return " or ".join(f"`{need.setting}={value}`" for value in values)
