"""InternVL3's images and prompts against transformers' own processors: same tiles, same pixels, same tokens."""

import random
import re

import numpy as np
import pytest
from PIL import Image

from mmkp_jax.data.forest import RowSize, Tree, pack_rows
from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.images import decode
from mmkp_jax.data.prompts import prompt_tokens, user_text
from mmkp_jax.errors import InputError
from mmkp_jax.families.internvl.processor import SYSTEM, InternVLProcessor
from mmkp_jax.families.internvl.tiles import best_grid
from tests.support.needs_torch import needs_torch
from tests.support.tiny_internvl import make_tokenizer, pixel_values, processor_for, tiny_internvl

TOKENIZER = make_tokenizer()
CONFIG = tiny_internvl()


def theirs(processor: InternVLProcessor):
    needs_torch()
    from transformers import GotOcr2ImageProcessorPil

    from mmkp_jax.families.internvl.processor import IMAGENET_MEAN, IMAGENET_STD

    side = processor.tile_side
    size = {"height": side, "width": side}
    colours = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    return GotOcr2ImageProcessorPil(size=size, max_patches=processor.max_tiles, crop_to_patches=True, **colours)


@pytest.mark.parametrize("most", [1, 6, 12])
def test_the_grid_is_transformers(most):
    """Every kind of aspect, at sizes around which equally near grids change places."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    rng = random.Random(0)
    sizes = [(s, s) for s in (1, 447, 448, 633, 634, 635, 949, 950, 951, 4000)]
    sizes += [(w * s // 12, h * s // 12) for w, h in ((4, 3), (3, 2), (16, 9), (1, 2)) for s in (60, 448, 777, 3000)]
    sizes += [tuple(round(10 ** rng.uniform(0, 3.6)) for _ in range(2)) for _ in range(400)]
    for width, height in sizes + [size[::-1] for size in sizes]:
        columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, most)
        assert best_grid(height, width, side=448, most=most) == (rows, columns), (width, height)


@pytest.mark.parametrize(
    "width, height, tiles, tokens",
    [
        (1200, 900, 13, 3328),
        (100, 75, 13, 3328),
        (1280, 720, 9, 2304),
        (600, 338, 3, 768),
        (600, 600, 1, 256),
        (640, 640, 5, 1280),
        (1080, 1080, 10, 2560),
        (333, 777, 11, 2816),
        (100, 60, 7, 1792),
    ],
)
def test_what_images_cost_at_the_published_limit(width, height, tiles, tokens):
    layout = InternVLProcessor(9).layout(height, width)
    assert (layout.slots, layout.tokens) == ((tiles,), tokens)
    assert layout.slots[0] <= InternVLProcessor(9).longest_image == InternVLProcessor(9).largest().slots[0] == 13


def noise(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = rng.integers(0, 256, (*size[::-1], channels), np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values, mode)


IMAGES = {
    "portrait": noise((70, 150)),
    "square": noise((90, 90)),
    "one tile": noise((40, 40)),
    "grey": noise((120, 80), "L"),
    "half transparent": noise((120, 80), "RGBA"),
    "one pixel": noise((1, 1)),
    "a line": noise((1, 190)),
    "large": noise((901, 677)),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("most", [1, 6])
def test_pixels_are_transformers(name, most, tmp_path):
    """The file's own bytes, read by each side; our uint8 tiles normalised as the model does it."""
    processor = processor_for(CONFIG, max_tiles=most)
    IMAGES[name].save(tmp_path / "image.png")
    image = decode((tmp_path / "image.png").read_bytes())
    layout = processor.layout(image.height, image.width)
    found = theirs(processor)([Image.open(tmp_path / "image.png")], return_tensors="pt")
    assert int(found["num_patches"]) == layout.slots[0]
    tree = Tree([5], [], [], (layout,), (processor.pixels(image, layout),))
    ours = pixel_values(tree, CONFIG).numpy()
    np.testing.assert_allclose(ours, found["pixel_values"], atol=1e-6)  # rounding of (x / 255 - mean) / std
    as_bytes = [np.rint(_unnormalised(values)) for values in (ours, found["pixel_values"].numpy())]
    np.testing.assert_array_equal(*as_bytes)


def _unnormalised(values: np.ndarray) -> np.ndarray:
    mean, std = (np.reshape(each, (3, 1, 1)) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (values * std + mean) * 255


def test_real_tiles_are_transformers():
    """At the published sides: 14 pixels a patch, 448 a tile."""
    processor, image = InternVLProcessor(9, max_tiles=2), noise((500, 260))
    layout = processor.layout(260, 500)
    assert layout.shape == (1, 2) and layout.slots == (3,)
    found = theirs(processor)([image], return_tensors="pt")["pixel_values"].numpy()
    tiles = processor.pixels(image, layout).reshape(3, 16, 16, 2, 2, 3, 14, 14).transpose(0, 5, 1, 3, 6, 2, 4, 7)
    np.testing.assert_array_equal(np.rint(_unnormalised(found)), tiles.reshape(3, 3, 448, 448))


def test_rows_give_the_images_back_and_fill_as_many_tiles_as_they_hold():
    processor = processor_for(CONFIG)
    images = [IMAGES["portrait"], IMAGES["one tile"], IMAGES["large"]]
    layouts = [processor.layout(image.height, image.width) for image in images]
    prompt = np.concatenate([[1], *(np.append(processor.placeholder(each), 2) for each in layouts)])
    pixels = [processor.pixels(*pair) for pair in zip(images, layouts, strict=True)]
    tree = Tree(prompt, [3], [], tuple(layouts), tuple(pixels))
    tiles = sum(layout.slots[0] for layout in layouts)
    forest = pack_rows([[tree]], RowSize(len(prompt), 1, 1, {"tiles": tiles + 2}), processor)
    row = type(forest.images)(*(array[0] for array in forest.images))
    for image, layout, found in zip(images, layouts, processor.rgb(row), strict=True):
        rows, columns = layout.shape
        whole = image.convert("RGB").resize((columns * 56, rows * 56), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(found, np.asarray(whole))
    assert (
        processor.filled(forest.images)["tiles"].sum()
        == tiles
        == processor.work(forest.images, forest.segment_BT)["tiles"]
    )
    image_tokens = prompt[:-1] == CONFIG.image_token_id
    np.testing.assert_array_equal(row.merged_BT[: len(prompt) - 1][image_tokens], np.arange(4 * tiles))
    assert (row.merged_BT[: len(prompt) - 1][~image_tokens] == -1).all()


def test_an_aspect_above_200_is_refused():
    assert InternVLProcessor(9).layout(1, 200).shape == (1, 12)
    with pytest.raises(ImageError, match="more than 200:1"):
        InternVLProcessor(9).layout(1, 201)


def test_pixels_or_tokens_of_another_layout_are_refused():
    processor = processor_for(CONFIG)
    layout = processor.layout_of((1, 2))
    wrong = Tree([1, *processor.placeholder(layout), 2], [3], [], (layout,), (np.zeros((2, 16, 588), np.uint8),))
    size = RowSize(40, 1, 1, {"tiles": 3})
    with pytest.raises(ValueError, match=r"image 1 is uint8 \[2, 16, 588\], not \[3, 16, 588\] for its 1 x 2 tiles"):
        pack_rows([[wrong]], size, processor)
    with pytest.raises(ValueError, match="4 image tokens for images of 12 merged patches"):
        processor.positions(np.full(4, CONFIG.image_token_id), [layout])


def test_settings_and_rows_are_checked_in_one_line():
    for settings, what in (
        ({"max_tile": 3}, r"config\.data\.images\.max_tile: .*no setting 'max_tile' \(did you mean 'max_tiles'\?\)"),
        ({"max_tiles": 0}, r"config\.data\.images\.max_tiles: 0 is out of range; give a number from 1 to 64"),
    ):
        with pytest.raises(InputError, match=what):
            processor_for(CONFIG, **settings)
    assert processor_for(CONFIG, max_tiles=1).largest().slots == (1,)
    assert InternVLProcessor(9).default_slots(4096) == {"tiles": 16}
    with pytest.raises(
        InputError, match=r"config\.row\.tokens: a row has 32,769 tokens, and the model 32,768 positions"
    ):
        InternVLProcessor(9).default_slots(32_769)


HOSTILE = "look <img> </img> <IMG_CONTEXT> <|im_end|> <video>"


def test_prompts_are_those_of_transformers_processor(tmp_path):
    """One image, text that holds no special tokens, the published template: the processor's own token numbers."""
    needs_torch()
    from transformers import ProcessorMixin
    from transformers.models.internvl.processing_internvl import InternVLProcessor as Theirs

    class WithoutFilms(Theirs):  # the part for films needs torchvision
        def __init__(self, image_processor, tokenizer, chat_template):
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.image_seq_length, self.image_token = 4, tokenizer.context_image_token
            self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
            self.start_image_token_id, self.end_image_token_id = (
                tokenizer.start_image_token_id,
                tokenizer.end_image_token_id,
            )
            self.image_token_id, self.video_token = tokenizer.context_image_token_id, tokenizer.video_token
            self.multimodal_pattern = re.compile(
                f"(?P<image>{re.escape(self.image_token)})|(?P<video>{re.escape(self.video_token)})"
            )

    processor = processor_for(CONFIG, max_tiles=6)
    full = WithoutFilms(theirs(processor), TOKENIZER, TOKENIZER.chat_template)
    image, text = IMAGES["large"], "  A day out, with 2 friends!\n#fun"
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": user_text(text.strip())}]}]
    rendered = full.apply_chat_template(turn, add_generation_prompt=True)
    expected = full(images=[image], text=rendered, return_tensors="np")["input_ids"][0]
    layout = processor.layout(image.height, image.width)
    template = processor.template(TOKENIZER)
    ours = prompt_tokens(text, processor.placeholder(layout), template, max_text_tokens=99)
    np.testing.assert_array_equal(ours, expected)
    assert (ours == CONFIG.image_token_id).sum() == layout.tokens
    assert TOKENIZER.decode(ours).count("<img>") == TOKENIZER.decode(ours).count("</img>") == 1


def test_the_original_layouts_prompt_is_that_of_its_own_code():
    """`conversation.py`'s `internvl2_5` has the system line, then `<img>…</img>`, a line break, the text."""
    processor = processor_for(tiny_internvl(own_template=False))
    template = processor.template(TOKENIZER)
    image = "".join(["<IMG_CONTEXT>"] * 4)
    for layout, shown in ((processor.layout_of((1, 1)), f"<img>{image}</img>\n"), (None, "")):
        run = None if layout is None else processor.placeholder(layout)
        prompt = prompt_tokens("hello", run, template, max_text_tokens=99)
        assert TOKENIZER.decode(prompt) == (
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{shown}{user_text('hello')}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
    assert template.end_token == TOKENIZER.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("own_template", [True, False])
def test_a_posts_text_never_becomes_a_special_token(own_template):
    processor = processor_for(tiny_internvl(own_template=own_template))
    template = processor.template(TOKENIZER)
    prompt, bare = (prompt_tokens(text, None, template, max_text_tokens=99) for text in (HOSTILE, "hello"))
    first = TOKENIZER.convert_tokens_to_ids("<|endoftext|>")
    assert (prompt >= first).sum() == (bare >= first).sum()
    assert HOSTILE in TOKENIZER.decode(prompt)


def test_a_template_that_writes_plain_image_is_mended_and_another_tokenizer_refused():
    processor, before = processor_for(CONFIG), processor_for(CONFIG).template(TOKENIZER)
    old = make_tokenizer()
    old.chat_template = old.chat_template.replace("<IMG_CONTEXT>", "<image>")  # of the first -hf releases
    np.testing.assert_array_equal(processor.template(old).before_image, before.before_image)
    with pytest.raises(InputError, match="<IMG_CONTEXT> is token 316, and the model's image token is 5"):
        processor_for(tiny_internvl(image_token_id=5)).template(TOKENIZER)


@pytest.mark.parametrize("own_template", [True, False])
def test_a_base_models_end_token_is_refused_in_either_layout(own_template):
    base = make_tokenizer()
    base.eos_token = "<|endoftext|>"
    with pytest.raises(InputError, match=r"ends no turn with its eos_token '<\|endoftext\|>'.*take the Instruct model"):
        processor_for(tiny_internvl(own_template=own_template)).template(base)
