"""Trains pocket's tokenizers: a family's byte-level BPE, special tokens and chat template, with its own vocabulary."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from mmkp_jax.data.prompts import user_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
"""Special tokens in the order of their numbers, which follow those of the plain tokens without a gap, as published."""

PLAIN_TOKENS = 2000
"""Most tokens before the special ones: the 256 bytes, and merges while the texts have any."""

_SYSTEM = "system\nYou are a helpful assistant."

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    f"<|im_start|>{_SYSTEM}<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The published template, without videos and numbered images."""

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern that splits a text into words; no token crosses a word's end."""

MAX_LENGTH = 4096
"""Most tokens of a text, as in the model's config."""


class Vocabulary(NamedTuple):
    """What a family's tokenizer has besides its plain tokens."""

    special_tokens: tuple[str, ...]
    """In the order of their numbers, which follow those of the plain tokens."""
    chat_template: str
    system: str
    """The system turn that the template writes, for the vocabulary of pocket."""
    end: str
    """The token that ends a turn."""
    pad: str
    begin: str | None = None
    """The token that begins a text, which the tokenizer puts in front of it and the template writes, too."""
    words: str = QWEN_WORDS
    """The pattern that splits a text into words."""
    normalised: bool = True
    """Whether texts are brought into the form NFC."""


QWEN2_5_VL = Vocabulary(SPECIAL_TOKENS, CHAT_TEMPLATE, _SYSTEM, end="<|im_end|>", pad="<|endoftext|>")


def train_tokenizer(
    texts: Iterable[str], vocabulary: Vocabulary = QWEN2_5_VL, plain_tokens: int = PLAIN_TOKENS
) -> "PreTrainedTokenizerFast":
    """A byte-level BPE of `texts` and of the words of prompts, with a family's special tokens and chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    if vocabulary.normalised:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(vocabulary.words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    instructions = (
        vocabulary.system,
        "user",
        "assistant",
        user_text("", zero_shot=True),
        "<think></think><answer></answer>",
    )
    bytes_first = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=plain_tokens, initial_alphabet=bytes_first, show_progress=False)
    tokenizer.train_from_iterator([*texts, *instructions], trainer)
    tokenizer.add_special_tokens(list(vocabulary.special_tokens))
    begin = {}
    if vocabulary.begin:
        number = tokenizer.token_to_id(vocabulary.begin)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{vocabulary.begin} $A", special_tokens=[(vocabulary.begin, number)]
        )
        begin = {"bos_token": vocabulary.begin}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=vocabulary.end,
        pad_token=vocabulary.pad,
        additional_special_tokens=[token for token in vocabulary.special_tokens if token != vocabulary.pad],
        chat_template=vocabulary.chat_template,
        model_max_length=MAX_LENGTH,
        **begin,
    )
