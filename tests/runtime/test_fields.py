"""The table of fields: what is generated from it, and that its data match what the code implements."""

import subprocess
import sys

import pytest

from configs import base, dyncot, presets
from mmkp_jax.errors import InputError
from mmkp_jax.models.family import PARTS
from mmkp_jax.models.sharding import MEMORIES
from mmkp_jax.ops.backends import BACKENDS
from mmkp_jax.runtime import field_text
from mmkp_jax.runtime.config import default_config, override, parse_overrides, read_config
from mmkp_jax.runtime.field_checks import check_settings, fault_of, faults_of
from mmkp_jax.runtime.field_types import CONTENT, LENGTH, MAY_DIFFER, REQUIRED, SAME, Field
from mmkp_jax.runtime.fields import DTYPE_NAMES, FIELDS, field_named, leaves, may_differ
from mmkp_jax.runtime.needs import COMPARED
from mmkp_jax.training import decisions, gamma, objectives, setup
from tests.support.paths import ROOT

CONFIG = "configs/dyncot.py"
HEAVY = ("jax", "flax", "optax", "orbax", "grain", "transformers", "numpy", "PIL")

REFUSED = {
    "a mistyped key": ["--config.gama=0.3"],
    "a mistyped key of images": ["--config.row.images.patchs=10", "--config.data.images.max_pixel=3"],
    "a value of another type": ["--config.gamma=high"],
    "a value out of its range": ["--config.log_every=0"],
    "an unknown choice": ["--config.strategy=dynct"],
    "an unknown preset": [f"--config={CONFIG}:model=pockett"],
    "an unknown flag": ["--confg=x"],
}

TABLE = (
    Field("path", "a", "a path"),
    Field("row.tokens", 4, "slots", low=1),
    Field("row.images", {}, "slots by kind", low=0),
)
"""A small table with a mapping."""


def test_every_default_is_in_its_own_range_and_named_once():
    assert [fault_of(field, field.name, field.default) for field in FIELDS] == [None] * len(FIELDS)
    assert len({field.name for field in FIELDS}) == len(FIELDS)


def test_the_base_config_is_the_table():
    assert dict(leaves(base.get_config().to_dict())) == {field.name: field.default for field in FIELDS}


def test_every_preset_gives_a_valid_config():
    chosen = [f"{kind}={name}" for kind, names in presets.PRESETS.items() for name in names]
    for each in chosen:
        check_settings(dyncot.get_config(each))


def test_choices_equal_what_is_implemented():
    choices = {field.name: field.choices for field in FIELDS}
    assert choices["strategy"] == objectives.STRATEGIES
    assert choices["gamma_mode"] == gamma.MODES
    assert choices["decision"] == tuple(decisions.DECISIONS)
    assert set(COMPARED.never) == {name for name, each in decisions.DECISIONS.items() if each.is_random}
    assert choices["attention"] == ("auto", *BACKENDS)
    assert choices["moments_memory"] == tuple(MEMORIES)
    assert tuple(setup.DTYPES) == DTYPE_NAMES
    assert set(field_named("freeze").default) <= set(PARTS)


def test_needed_settings_are_fields_with_valid_values():
    for field in FIELDS:
        for need in field.needs:
            for value in (*need.only, *need.never):
                assert fault_of(field_named(need.setting), need.setting, value) is None


def test_docs_config_md_is_generated_from_the_table():
    page = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert page == field_text.markdown(), "write it again: python -m mmkp_jax.runtime.fields > docs/config.md"


def test_help_has_every_field_in_80_columns():
    lines = field_text.as_help().splitlines()
    assert max(map(len, lines)) <= field_text.WIDTH == 80
    listed = {line.strip().partition("=")[0] for line in lines}
    assert {field.name for field in FIELDS} <= listed


def test_fields_that_may_differ_on_resume():
    assert may_differ("mesh.fsdp") and may_differ("sharding_rules.embed") and may_differ("log_every")
    assert not may_differ("gamma") and not may_differ("data.path") and not may_differ("no.such.field")
    assert not may_differ("total_steps") and may_differ("total_steps", extend=True)
    assert not may_differ("row.images.patches")
    assert {field.resume for field in FIELDS} == {SAME, MAY_DIFFER, LENGTH, CONTENT}


@pytest.mark.parametrize(
    "flag, line",
    [
        ("gama=0.3", "config.gama: unknown key 'gama' (did you mean 'gamma'?); see python -m mmkp_jax.main --help"),
        ("gamma=high", "config.gamma: 'high' is not a number; give a number from 0"),
        ("gamma=nan", "config.gamma: nan is out of range; give a number from 0"),
        ("gamma_ema_decay=1", "config.gamma_ema_decay: 1.0 is out of range; give a number from 0, below 1"),
        ("multitask_weight=7", "config.multitask_weight: 7.0 is out of range; give a number from 0 to 1"),
        ("seed=1.5", "config.seed: '1.5' is not a whole number; give a whole number from 0"),
        (f"seed={2**63}", "config.seed: a number of many digits is not a whole number; give a whole number from 0"),
        ("remat=2", "config.remat: '2' is not true or false; give true or false"),
        ("seed", "config.seed: '' is not a whole number; give a whole number from 0"),
        ("freeze=(1,)", "config.freeze: (1,) is not a list of texts; give a list of texts"),
        ("freeze=(", "config.freeze: '(' is not a list of texts; give a list of texts"),
        ("pack_for=bth", "config.pack_for: unknown pack_for 'bth' (did you mean 'both'?); choose one of own, both"),
        (
            "sharding_rules.embed=fdsp",
            "config.sharding_rules.embed: unknown embed 'fdsp' (did you mean 'fsdp'?); "
            "choose one of None, data, fsdp, tensor",
        ),
        ("row.images=5", "config.row.images: 5 is not a mapping; give --config.row.images.NAME=NUMBER"),
        ("row=5", "config.row: 'row' is a section; give one of its fields, such as row.tokens"),
        (
            "row.patches=5",
            "config.row.patches: 'row.patches' is now 'row.images.patches'; give config.row.images.patches",
        ),
        ("model.path=", "config.model.path: it is empty; give a Hugging Face folder or hub id"),
        ("gamma=inf", "config.gamma: inf is out of range; give a number from 0"),
        ("row.images.patches=-1", "config.row.images.patches: -1 is out of range; give a whole number from 0"),
        (
            "row.images.patches=few",
            "config.row.images.patches: 'few' is not a whole number",
        ),
        ("mesh.fsdp=0", "config.mesh: sizes {'data': 1, 'fsdp': 0, 'tensor': 1}; give positive sizes"),
        ("num_epochs=0", "config.num_epochs: num_epochs is 0 and total_steps is 0; give one of them"),
    ],
)
def test_an_invalid_field_is_one_line(flag, line):
    with pytest.raises(InputError) as caught:
        read_config(CONFIG, [f"--config.{flag}"])
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    "flag, value",
    [
        ("gamma=1", 1.0),
        ("gamma=1e9", 1e9),
        ("row.tokens=4_096", 4096),
        ("remat=true", True),
        ("remat", True),
        ("freeze=()", ()),
        ("freeze=('tower', 'decoder.layers.0')", ("tower", "decoder.layers.0")),
        ("freeze=tower", ("tower",)),
        ("sharding_rules.embed=None", None),
        ("sharding_rules.layers=fsdp", "fsdp"),
        ("data.kinds=a=b", "a=b"),
        ("row.images.tiles=7", 7),
    ],
)
def test_a_flag_is_read_as_its_fields_type(flag, value):
    config = read_config(CONFIG, ["--config.gamma=0.1", "--config.remat=False", f"--config.{flag}"])
    found = dict(leaves(config.to_dict()))[flag.partition("=")[0]]
    assert (found, type(found)) == (value, type(value))


def test_all_mistakes_are_reported_at_once():
    flags = ["gama=3", "gamma=high", "log_every=0", "strategy=dynct", "row.images.a=x"]
    with pytest.raises(InputError) as caught:
        read_config(f"{CONFIG}:modell=x,data=foo", [f"--config.{flag}" for flag in flags])
    line = str(caught.value)
    assert line.startswith("7 mistakes: --config: unknown preset 'modell=x' (did you mean 'model=…'?) (use ")
    for message in ("'modell=x'", "'data=foo'", "'gama'", "'high'", "log_every: 0", "'dynct'", "'x' is not a whole"):
        assert message in line
    assert "\n" not in line


def test_faults_of_a_config_file_are_reported_too_unless_a_flag_replaces_them(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import base\n\n"
        "def get_config(arg=''):\n"
        "    c = base.get_config()\n"
        "    c.unlock()\n"
        "    c.learning_rate, c.log_every, c.own = -1.0, 0, 3\n"
        "    del c['seed']\n"
        "    return c\n"
    )
    with pytest.raises(InputError) as caught:
        read_config(str(file), ["--config.log_every=5"])
    line = str(caught.value)
    assert "config.learning_rate: -1.0 is out of range" in line and "config.seed: it is missing" in line
    assert "unknown key 'own'" in line and "log_every" not in line and line.startswith("3 mistakes: ")


def test_a_mapping_takes_any_name_from_presets_and_flags():
    config = default_config(TABLE)
    config.row.images.patches = 4096  # as a preset does
    config.row.update(images={"windows": 8})
    values, faults = parse_overrides(["--config.row.images.windows=9", "--config.row.images.tiles=2"], TABLE)
    override(config, values)
    assert not faults and config.row.images.to_dict() == {"patches": 4096, "windows": 9, "tiles": 2}
    check_settings(config, TABLE)
    with pytest.raises(AttributeError):
        config.row.more = 1
    config.row.images.tiles = -1
    with pytest.raises(InputError, match=r"config\.row\.images\.tiles: -1 is out of range; give a whole number from 0"):
        check_settings(config, TABLE)
    bad = ["--config.row.images.a.b=1", "--config.row.images.=1", "--config.row.images.c=x", "--config.row.tiles=3"]
    assert [fault.name for fault in parse_overrides(bad, TABLE)[1]] == [
        "row.images.a.b",
        "row.images.",
        "row.images.c",
        "row.tiles",
    ]


@pytest.mark.parametrize(
    "content, faults",
    [
        ({"path": "a", "row": 3}, [("row", 3)]),
        ({"path": 1, "row": {"tokens": 0, "images": 7}}, [("path", 1), ("row.tokens", 0), ("row.images", 7)]),
        ({"path": "a", "row": {"tokens": {"b": 1}, "images": {}}}, [("row.tokens", {})]),
        ({"row": {"tokens": 1, "images": {"a": None}}}, [("path", REQUIRED), ("row.images.a", None)]),
        ({"path": "a", "row": {"tokens": True, "images": {}}}, [("row.tokens", True)]),
    ],
)
def test_faults_of_plain_values_name_the_field_and_its_value(content, faults):
    assert [(fault.name, fault.value) for fault in faults_of(content, TABLE)] == faults


@pytest.mark.parametrize("flags", [*REFUSED.values(), ["--help"]], ids=[*REFUSED, "help"])
def test_nothing_heavy_is_imported_before_flags_and_config_are_checked(flags):
    code = (
        "import sys\nfrom mmkp_jax.main import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        f"print(status, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--config={CONFIG}", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == f"{0 if flags == ['--help'] else 2} []", done.stderr
