"""Text of the model card, with placeholders for what differs between runs."""

from string import Template

READING = Template('''\
PROMPT = $prompt
TEXT_TOKENS = $text_tokens
PLAIN = {"add_special_tokens": False}  # the chat template writes them


def cut(text):
    """The text without what comes after its first TEXT_TOKENS tokens."""
    text = text.strip()
    while len(spans := tokenizer(text, **PLAIN, return_offsets_mapping=True)["offset_mapping"]) > TEXT_TOKENS:
        text = text[: spans[TEXT_TOKENS][0]].rstrip()
    return text
$read''')
"""Code that reads a post as `data.prompts.trimmed` does."""

READ = '''

def read(file):
    """The image upright, in 8 bits, on white where transparent."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode[0] in "IF":  # more bits than 8, which convert() would clip
        values = np.nan_to_num(np.asarray(image, float))
        if image.mode.startswith("I;16") or values.max() > 255:
            values = values // 256
        elif image.mode == "F" and values.max() <= 1:
            values = values * 255
        image = Image.fromarray(values.clip(0, 255).astype("uint8"))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
'''
"""Code that reads an image as `data.images.decode` does."""

TRANSFORMERS = Template('''\
import re

import numpy as np
import torch
${peft}from PIL import Image, ImageOps
from transformers import $classes

FOLDER = $folder  $folder_is
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
${processor}model = $model.from_pretrained(FOLDER, dtype="auto").to(device).eval()
$adjusting$adapted$reading

def answer(text, image=None):
    """What the model writes about a post: its text, and its image file if it has one."""
    content, inputs = $content, {}
$see    turn = [{"role": "user", "content": content}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False$template)
$expand    ids = tokenizer(prompt, **PLAIN, return_tensors="pt").input_ids
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
$extra    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    written = model.generate(**inputs, max_new_tokens=$answer_tokens, do_sample=False, repetition_penalty=1.0)
    tokens = written[0, ids.shape[1] :].tolist()
    ends = np.ravel(model.generation_config.eos_token_id)  # one, several, or None
    end = next((n for n, token in enumerate(tokens) if token in ends), len(tokens))
    return tokenizer.decode(tokens[:end], skip_special_tokens=False)


def keyphrases(text, image=None):
    """The keyphrases in an answer: of the last <answer>, or all of it where there is no reasoning."""
    written = answer(text, image)
    answers = re.findall(r"<answer>(.*?)</answer>", written, re.DOTALL)
    if not answers and re.search(r"</?(think|answer)>", written):
        return []  # cut off while it reasoned
    phrases = [phrase.strip().lower() for phrase in (answers or [written])[-1].split(";") if phrase.strip()]
    return list(dict.fromkeys(phrases))


print(keyphrases("the eras tour was everything"))$example
''')

NEEDS = "Needs `transformers>=5.23`, `torch` and `pillow`."

PROCESSOR = "processor = {}.from_pretrained(FOLDER{})  # resizes with Pillow, as training did\n"

PARTS = '[{"type": "text", "text": PROMPT.format(cut(text))}]'
"""The user's turn for a model that takes images; for other models it is the text itself."""

SEE = """\
    if image is not None:
        content.insert(0, {{"type": "image"}})
        inputs = dict(processor([read(image)], {options}return_tensors="pt"))
"""

EXAMPLE = '  # with an image: keyphrases(text, "stage.jpg")'

VLLM_PARTS = """\
[
    {"type": "image_pil", "image_pil": read("stage.jpg")},
    {"type": "text", "text": PROMPT.format(cut("the eras tour was everything"))},
]"""

VLLM_OPTIONS = ', limit_mm_per_prompt={"image": 1}'
"""Options of vLLM for models with images; it resizes them as the folder says."""

DATED = """ The chat template
writes a date, which was {} in training, and is here: without it, the template writes that of the day."""
"""Sentence for the card of a model whose chat template writes a date."""

VLLM = Template("""\
import numpy as np
from PIL import Image, ImageOps
from vllm import LLM, SamplingParams
$vllm_peft
$reading

llm = LLM($folder$options$vllm_adapter)
tokenizer = llm.get_tokenizer()
content = $vllm_content
greedy = SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=$answer_tokens)
print(llm.chat([{"role": "user", "content": content}], greedy$vllm_request$vllm_template)[0].outputs[0].text)
""")

BODY = Template("""\
# $title

Writes the keyphrases (hashtags) of a social-media post, from $sources. It is $base, trained by
[mmkp_jax](#citation) $version.

$strategy.

## Scores

$results

## Use it in transformers

$needs

```python
$transformers```

## Use it in vLLM

$vllm_note```python
$vllm```

`vllm serve` takes a repetition penalty from `generation_config.json`: start it with `--generation-config vllm`. The
answer holds keyphrases separated by `;`, or `<think>…</think><answer>…</answer>` with them in the last `<answer>`.

## Prompt

$turn

```
$prompt
```

$images A text was cut off after $text_tokens tokens. In training, a post's text was never read
as special tokens: remove tokens such as `$end` from text that you do not trust.$dated

## Training

$training

## Data

$data

## Licence

$licence

## Citation

```bibtex
@inproceedings{ma2025boosting,
  title = {Boosting Multi-modal Keyphrase Prediction with Dynamic Chain-of-Thought in Vision-Language Models},
  author = {Ma, Qihang and Li, Shengyu and Tang, Jie and Yang, Dingkang and Chen, Shaodong and Zhang, Yingyi and
            Feng, Chao and Ran, Jiao},
  booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
  year = {2025},
  url = {https://arxiv.org/abs/2510.09358}
}
@software{mmkp_jax,
  title = {mmkp_jax: multi-modal keyphrase prediction with vision-language models in JAX},
  author = {{The mmkp_jax authors}},
  version = {$version}
}
```
""")
