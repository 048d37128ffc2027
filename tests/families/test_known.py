"""The table of families: what it says of each, and mistyped keys of images, refused with all other mistakes."""

import importlib

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.families import known
from mmkp_jax.families.registry import define, family_of, known_config
from mmkp_jax.runtime.config import read_config
from tests.support.paths import ROOT

CONFIG = str(ROOT / "configs/dyncot.py")


@pytest.mark.parametrize("name", known.FAMILIES)
def test_a_row_is_what_the_familys_processor_says(name):
    row = known.FAMILIES[name]
    family = importlib.import_module(row.module).FAMILY
    assert family.published
    for config in family.published.values():
        processor = define(config).processor
        assert (row.slots, set(row.settings)) == (processor.slots, processor.settings.keys())


@pytest.mark.parametrize("kind", known.NEAREST)
def test_a_model_that_is_not_implemented_is_named_with_the_nearest_that_is(kind):
    name, other = known.NEAREST[kind]
    with pytest.raises(InputError) as caught:
        family_of({"model_type": kind}, "ckpt/config.json")
    what = f"ckpt/config.json: {name} (model_type {kind!r}) is not implemented"
    assert str(caught.value) == f"{what}; take {other}, which is the nearest that is"
    assert known_config(other)["model_type"] in known.FAMILIES


def test_mistyped_keys_of_images_are_reported_with_all_others():
    flags = ["row.images.patchs=10", "data.images.max_pixel=3", "gama=1", "row.images.patches=8"]
    with pytest.raises(InputError) as caught:
        read_config(CONFIG, [f"--config.{flag}" for flag in flags], known.fields())
    assert str(caught.value).startswith(
        "3 mistakes: config.row.images.patchs: unknown key 'patchs' (did you mean 'patches'?) "
        "(give patches or windows); config.data.images.max_pixel: unknown key 'max_pixel' (did you mean 'max_pixels'?) "
    )


def test_a_mistyped_key_in_a_config_file_is_refused_too(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import base\n\n"
        "def get_config():\n"
        "    c = base.get_config()\n"
        "    c.row.images.tiles = 4\n"
        "    return c\n"
    )
    with pytest.raises(InputError, match=r"config.row.images.tiles: unknown key 'tiles' \(known: patches, windows\)"):
        read_config(str(file), [], known.fields())
    assert read_config(str(file)).row.images.tiles == 4


@pytest.mark.parametrize(
    "source, message",
    [
        ("x = (", r"it raises SyntaxError in line 1: '\(' was never closed"),
        ("def get_confg(): pass", "it defines no function get_config"),
        ("def get_config(arg): return 5", "its get_config returns int, not a ConfigDict"),
        ("def get_config(arg):\n    return arg.nothing", "it raises AttributeError in line 2: "),
        ("def get_config(): return 5", r"its get_config\(\) takes no presets, and 'model=pocket' are given"),
    ],
)
def test_a_faulty_config_file_is_one_line_with_its_place(source, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(InputError, match=f"mine.py: {message}"):
        read_config(f"{file}:model=pocket")
