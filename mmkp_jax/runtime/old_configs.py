"""Upgrades of configs from earlier revisions, for every reader of a work directory's `config.json`."""

import copy
from collections.abc import Mapping
from typing import Any

from mmkp_jax.runtime.field_types import MAY_DIFFER, REQUIRED
from mmkp_jax.runtime.fields import FIELDS

MOVED: Mapping[str, str] = {
    "row.patches": "row.images.patches",
    "row.windows": "row.images.windows",
    "data.min_pixels": "data.images.min_pixels",
    "data.max_pixels": "data.images.max_pixels",
}
"""New names of fields that were moved."""

RENAMED = (("freeze", ["visual.patch_embed", "visual.blocks"], ["tower"]),)
"""Renamed values: field, old value, new value."""


def upgrade(content: Mapping[str, Any], moved: Mapping[str, str] = MOVED) -> dict[str, Any]:
    """A config in plain values, with moved fields renamed, and missing fields at the value that the run had.

    Fields that may differ on resume take their default, as the run's numbers do not depend on them. Damage is
    kept: later checks report it.
    """
    config = copy.deepcopy(dict(content))
    if config.get("task") == "baseline":
        return config
    for name, to in moved.items():
        section, key = _section(config, name)
        if section is not None and key in section and _put(config, to, section[key]):
            del section[key]
    for name, was, now in RENAMED:
        section, key = _section(config, name)
        if section is not None and key in section and _plain(section[key]) == was:
            section[key] = now
    row, _ = _section(config, "row.tokens")
    if row is not None and "tokens" in row:
        row.setdefault("tree_tokens", row["tokens"])  # there was no other limit
    for field in FIELDS:
        before = field.default if field.resume == MAY_DIFFER else field.before
        if before is not REQUIRED:
            _put(config, field.name, before)
        elif field.default == {}:  # a mapping is filled later with what the run's model needs
            _put(config, field.name, {})
    return config


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _section(config: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    """The section of a field (None where it is absent), and the field's name in it."""
    *above, key = name.split(".")
    section: Any = config
    for each in above:
        section = section.get(each) if isinstance(section, dict) else None
    return (section if isinstance(section, dict) else None), key


def _put(config: dict[str, Any], name: str, value: Any) -> bool:
    """Sets a field unless it is there already; False where its section is not a mapping."""
    *above, key = name.split(".")
    section: Any = config
    for each in above:
        if not isinstance(section, dict):
            return False
        section = section.setdefault(each, {})
    if not isinstance(section, dict):
        return False
    section.setdefault(key, value)
    return True
