"""Code for the card of a folder in the original layout, which other programs read with the folder's own code.

Placeholders: those of `hf/card_text.py`.
"""

from mmkp_jax.families.internvl.processor import IMAGENET_MEAN, IMAGENET_STD, SYSTEM
from mmkp_jax.models.family import Snippets

NEEDS = (
    "Needs `torch`, `timm`, `einops`, `pillow` and a release of `transformers` before 5, for which the folder's own "
    "code was written: it runs that code (`trust_remote_code`). Read it before."
)

TRANSFORMERS = f'''\
import re

import numpy as np
import torch
${{peft}}from PIL import Image, ImageOps
from transformers import AutoModel, AutoTokenizer

FOLDER = $folder  $folder_is
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True, torch_dtype="auto").to(device).eval()
$adapted$reading

def tiles(image, side, most):
    """The image's tiles and thumbnail, as training cut them: [tiles, 3, side, side], normalised."""
    nearest, best = float("inf"), (1, 1)
    grids = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(image.width / image.height - columns / rows)
        is_filled = image.width * image.height > 0.5 * side * side * columns * rows
        if distance < nearest or (distance == nearest and is_filled):
            nearest, best = distance, (columns, rows)
    columns, rows = best
    whole = np.asarray(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    cut = whole.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if len(cut) > 1:
        cut = np.concatenate([cut, np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))[None]])
    values = (cut / 255 - {IMAGENET_MEAN}) / {IMAGENET_STD}
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


def answer(text, image=None):
    """What the model writes about a post: its text, and its image file if it has one."""
    pixels = None
    if image is not None:
        pixels = tiles(read(image), model.config.force_image_size, $max_tiles)
        pixels = pixels.to(device, model.dtype)
    greedy = {{"max_new_tokens": $answer_tokens, "do_sample": False, "repetition_penalty": 1.0}}
    return model.chat(tokenizer, pixels, PROMPT.format(cut(text)), greedy)


def keyphrases(text, image=None):
    """The keyphrases in an answer: of the last <answer>, or all of it where there is no reasoning."""
    written = answer(text, image)
    answers = re.findall(r"<answer>(.*?)</answer>", written, re.DOTALL)
    if not answers and re.search(r"</?(think|answer)>", written):
        return []  # cut off while it reasoned
    phrases = [phrase.strip().lower() for phrase in (answers or [written])[-1].split(";") if phrase.strip()]
    return list(dict.fromkeys(phrases))


print(keyphrases("the eras tour was everything"))  # with an image: keyphrases(text, "stage.jpg")
'''

VLLM = f'''\
import numpy as np
from PIL import Image, ImageOps
from vllm import LLM, SamplingParams
$vllm_peft
$reading

SYSTEM = "{SYSTEM}"


def prompt(text):
    """The prompt that the folder's own chat() makes of a post with an image."""
    user = "<image>\\n" + PROMPT.format(cut(text))
    return "".join(
        f"<|im_start|>{{role}}\\n{{said}}<|im_end|>\\n" for role, said in (("system", SYSTEM), ("user", user))
    ) + "<|im_start|>assistant\\n"


llm = LLM($folder, trust_remote_code=True, limit_mm_per_prompt={{"image": 1}}$vllm_adapter)
tokenizer = llm.get_tokenizer()
greedy = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=$answer_tokens, stop=["<|im_end|>"])
post = {{"prompt": prompt("the eras tour was everything"), "multi_modal_data": {{"image": read("stage.jpg")}}}}
print(llm.generate(post, greedy$vllm_request)[0].outputs[0].text)
'''

SNIPPETS = Snippets(NEEDS, TRANSFORMERS, VLLM)
