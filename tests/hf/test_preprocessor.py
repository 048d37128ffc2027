"""The limits of a picture are read where transformers reads them, and set where it looks."""

import json

import pytest
from transformers import AutoTokenizer, ProcessorMixin, Qwen2VLImageProcessorPil

from mmkp_jax.errors import InputError
from mmkp_jax.hf.preprocessor import pixel_limits, with_pixel_limits
from tests.tiny import write_tokenizer

DEFAULT = (5, 6)
ALONE, NESTED = "preprocessor_config.json", "processor_config.json"


class Pictures(ProcessorMixin):
    """transformers' processor without the part for films, which needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def write(folder, files) -> None:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


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
        ({ALONE: {"max_pixels": 12544}}, (5, 12544)),
        ({ALONE: {}}, DEFAULT),
        ({}, DEFAULT),
    ],
)
def test_limits_are_read(tmp_path, files, limits):
    write(tmp_path, files)
    assert pixel_limits(tmp_path, DEFAULT) == limits


@pytest.mark.parametrize("content", [{"min_pixels": "few"}, {"size": 3}])
def test_limits_that_are_none_are_one_line(tmp_path, content):
    write(tmp_path, {ALONE: content})
    with pytest.raises(InputError, match=r"preprocessor_config\.json: its limits of a picture cannot be read; copy"):
        pixel_limits(tmp_path, DEFAULT)


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
    assert with_pixel_limits(tmp_path, (1, 2)) == expected


@pytest.mark.parametrize("parts", ["image processor", "processor", "both"])
def test_transformers_reads_what_we_read_and_set(tmp_path, parts):
    """From the files that transformers itself writes; of both, it prefers the processor's."""
    write_tokenizer(tmp_path)
    if parts != "image processor":
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        Pictures(Qwen2VLImageProcessorPil(**edges(784, 50176)), tokenizer).save_pretrained(tmp_path)
    if parts != "processor":
        limits = (3136, 12544) if parts == "both" else (784, 50176)
        Qwen2VLImageProcessorPil(**edges(*limits)).save_pretrained(tmp_path)
    assert (tmp_path / NESTED).exists() == (parts != "image processor")

    def theirs() -> tuple[int, int]:
        size = Qwen2VLImageProcessorPil.from_pretrained(tmp_path).size
        return size["shortest_edge"], size["longest_edge"]

    assert pixel_limits(tmp_path, DEFAULT) == theirs() == (784, 50176)
    write(tmp_path, with_pixel_limits(tmp_path, (1568, 25088)))
    assert pixel_limits(tmp_path, DEFAULT) == theirs() == (1568, 25088)
