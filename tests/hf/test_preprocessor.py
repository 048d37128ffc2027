"""The limits of an image are read where transformers reads them, and set where it looks."""

import json
import re

import pytest
from transformers import AutoTokenizer, ProcessorMixin, Qwen2VLImageProcessorPil

from mmkp_jax.errors import InputError
from mmkp_jax.families.qwen2_5_vl.family import FAMILY
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.preprocessor import check_preprocessor, read_settings, with_settings
from tests.support.run_on_disk import write_base
from tests.support.tiny import tiny_config, write_tokenizer

CONFIG = tiny_config()
ALONE, NESTED = "preprocessor_config.json", "processor_config.json"


class Images(ProcessorMixin):
    """transformers' processor without the part for films, which needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def write(folder, files) -> None:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


def limits_of(folder) -> tuple[int | None, int | None]:
    settings = read_settings(folder, FAMILY, CONFIG)
    return settings.get("min_pixels"), settings.get("max_pixels")


def edges(least, most):
    return {"size": {"shortest_edge": least, "longest_edge": most}}


@pytest.mark.parametrize(
    "files, limits",
    [
        ({ALONE: {"min_pixels": 3136, "max_pixels": 12544}}, (3136, 12544)),
        ({ALONE: edges(784, 50176)}, (784, 50176)),
        ({ALONE: edges(784, 50176) | {"max_pixels": 12544}}, (784, 12544)),
        ({NESTED: {"image_processor": edges(784, 50176)}}, (784, 50176)),
        ({NESTED: {"image_processor": edges(784, 50176)}, ALONE: edges(1, 2)}, (784, 50176)),
        ({NESTED: {"processor_class": "Qwen2_5_VLProcessor"}, ALONE: edges(784, 50176)}, (784, 50176)),
        ({ALONE: {"max_pixels": 12544}}, (None, 12544)),
        ({ALONE: {}}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_limits_are_read(tmp_path, files, limits):
    write(tmp_path, files)
    assert limits_of(tmp_path) == limits


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({ALONE: {"min_pixels": "few"}}, "preprocessor_config.json: 'min_pixels' is \"few\", not a whole number"),
        ({ALONE: {"size": 3}}, "preprocessor_config.json: 'size' is 3, not an object"),
        ({ALONE: {"min_pixels": 10**12}}, "'min_pixels' is 1000000000000, not a whole number from 1 to 89,478,485"),
        ({NESTED: {"image_processor": edges(0, 5)}}, "'image_processor.size.shortest_edge' is 0, not a whole number"),
        ({NESTED: {"image_processor": "Q"}}, "processor_config.json: 'image_processor' is \"Q\", not an object"),
        ({ALONE: edges(9, 8)}, "min_pixels is 9 and max_pixels is 8"),
    ],
)
def test_limits_that_are_none_are_one_line(tmp_path, files, what):
    write(tmp_path, files)
    with pytest.raises(InputError, match=re.escape(what) + ".*; copy it"):
        limits_of(tmp_path)


OTHERS = [
    {"do_resize": False},
    {"resample": 2},
    {"do_rescale": False},
    {"rescale_factor": 1 / 127.5},
    {"do_normalize": False},
    {"image_mean": [0.5, 0.5, 0.5]},
    {"image_std": [0.5, 0.5, 0.5]},
    {"image_std": 1},
    {"image_mean": [0.48145466, 0.4578275]},
    {"do_convert_rgb": False},
    {"patch_size": 16},
    {"merge_size": 1},
    {"temporal_patch_size": 1},
    {"image_processor_type": "CLIPImageProcessor"},
    {"do_normalize": "no"},
    {"image_mean": [["nested"], {}, None]},
]


@pytest.mark.parametrize("field", OTHERS, ids=str)
@pytest.mark.parametrize("file", [ALONE, NESTED])
def test_another_preprocessing_of_images_is_refused(tmp_path, file, field):
    write(tmp_path, {file: field if file == ALONE else {"image_processor": field}})
    (name,) = field
    with pytest.raises(InputError) as caught:
        check_preprocessor(tmp_path, FAMILY, CONFIG)
    place = name if file == ALONE else f"image_processor.{name}"
    assert f"{tmp_path / file}: '{place}' is " in str(caught.value) and "\n" not in str(caught.value)


def test_all_that_opens_a_folder_looks_at_its_preprocessor(tmp_path):
    from mmkp_jax.planning.workload import published_config

    write_base(tmp_path / "base", tiny_config())
    open_folder(str(tmp_path / "base")), published_config(str(tmp_path / "base"))
    write(tmp_path / "base", {ALONE: {"do_normalize": False}})
    for look in (open_folder, published_config):
        with pytest.raises(InputError, match="'do_normalize' is false, not True"):
            look(str(tmp_path / "base"))


def test_what_transformers_writes_of_its_own_is_taken(tmp_path):
    Qwen2VLImageProcessorPil().save_pretrained(tmp_path)
    said = json.loads((tmp_path / ALONE).read_text())
    assert said["image_mean"] and said["rescale_factor"] and said["resample"]
    check_preprocessor(tmp_path, FAMILY, CONFIG)
    write(tmp_path, {ALONE: dict.fromkeys(said)})  # all null: transformers' defaults
    check_preprocessor(tmp_path, FAMILY, CONFIG)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({ALONE: {"patch_size": 14}}, {ALONE: {"patch_size": 14, "min_pixels": 1, "max_pixels": 2}}),
        ({ALONE: edges(9, 9)}, {ALONE: edges(1, 2)}),
        (
            {NESTED: {"image_processor": edges(9, 9) | {"min_pixels": 9}}, ALONE: {"max_pixels": 9}},
            {
                NESTED: {"image_processor": edges(1, 2) | {"min_pixels": 1}},
                ALONE: {"min_pixels": 1, "max_pixels": 2},
            },
        ),
        ({NESTED: {"processor_class": "Q"}, ALONE: edges(9, 9)}, {ALONE: edges(1, 2)}),
    ],
)
def test_limits_are_set_under_the_names_in_use(tmp_path, files, expected):
    write(tmp_path, files)
    assert with_settings(tmp_path, FAMILY, {"min_pixels": 1, "max_pixels": 2}) == expected


@pytest.mark.parametrize("parts", ["image processor", "processor", "both"])
def test_transformers_reads_what_we_read_and_set(tmp_path, parts):
    """From the files that transformers itself writes; of both, it prefers the processor's."""
    write_tokenizer(tmp_path)
    if parts != "image processor":
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        Images(Qwen2VLImageProcessorPil(**edges(784, 50176)), tokenizer).save_pretrained(tmp_path)
    if parts != "processor":
        limits = (3136, 12544) if parts == "both" else (784, 50176)
        Qwen2VLImageProcessorPil(**edges(*limits)).save_pretrained(tmp_path)
    assert (tmp_path / NESTED).exists() == (parts != "image processor")

    def theirs() -> tuple[int, int]:
        size = Qwen2VLImageProcessorPil.from_pretrained(tmp_path).size
        return size["shortest_edge"], size["longest_edge"]

    assert limits_of(tmp_path) == theirs() == (784, 50176)
    write(tmp_path, with_settings(tmp_path, FAMILY, {"min_pixels": 1568, "max_pixels": 25088}))
    assert limits_of(tmp_path) == theirs() == (1568, 25088)
