"""How full the planned rows are: real posts, the published vocabulary, and the rows of a config.

    python -m benchmarks.packing --raw=DIR --ranks=FILE [--images=DIR] [--words=N] [--tokens=T ...]

`--raw` is a folder in CMKP's layout; the posts of all its splits are packed. `--ranks` is Qwen's vocabulary as ranks of
byte strings (`qwen.tiktoken`), to which Qwen2.5's pattern, special tokens and chat template are added. Of `--images`
only the headers are read; without it, sizes that are usual on social media are drawn by the pictures' names. Real posts
have no chain of thought: one of about `--words` words is put in its place.
"""

import argparse
import base64
import dataclasses
import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from benchmarks.machine import describe_machine
from configs.base import get_config
from mmkp_jax.data.examples import BOTH, Branch, Recipe
from mmkp_jax.data.forest import RowSize, row_size
from mmkp_jax.data.plan import fill, plan_epoch
from mmkp_jax.data.posts import Post, Record, Reject, read_cmkp
from mmkp_jax.data.size_index import measure_posts, select_posts, sizes_of
from mmkp_jax.families.qwen2_5_vl.processor import Qwen2_5_VLProcessor
from mmkp_jax.pocket.tokenizer import CHAT_TEMPLATE, QWEN_WORDS, SPECIAL_TOKENS

SIZES = (
    (1200, 675),
    (680, 680),
    (900, 1200),
    (1080, 1080),
    (2048, 1536),
    (640, 360),
    (500, 281),
    (1536, 2048),
    (320, 568),
)
"""Width and height of pictures as social media hand them out."""

SPLITS = ("train", "valid", "test")

WHY = (
    "The user shares a moment that they care about, and the picture shows where it happens: people stand close "
    "together, signs and colours hint at an event, and the mood is warm. The text names who or what it is about, so "
    "readers who follow this subject would search for it by that name. The hashtags tie the post to a conversation "
    "that is larger than one account, they tell the topic to those who scroll past, and they let fans, friends and "
    "local people find it. Words in the image repeat the theme, which makes it likely that the author picked tags for "
    "the event itself, the person at its centre, and the feeling that the photograph carries. "
)
"""The words of a stand-in for a chain of thought."""


class QwenVocabulary(TikTokenConverter):
    """Reads a file of ranks by itself, as the package tiktoken would."""

    @staticmethod
    def load_tiktoken_bpe(file: str) -> dict[bytes, int]:
        lines = (line.split() for line in Path(file).read_bytes().splitlines() if line)
        return {base64.b64decode(token): int(rank) for token, rank in lines}


def qwen_tokenizer(ranks: Path) -> PreTrainedTokenizerFast:
    """Qwen2.5-VL's tokenizer: NFC, byte-level BPE of 151,643 ranks, 14 special tokens behind them, chat template."""
    tokenizer = QwenVocabulary(str(ranks), pattern=QWEN_WORDS, extra_special_tokens=SPECIAL_TOKENS).converted()
    tokenizer.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
    )


@dataclasses.dataclass(frozen=True)
class Posts:
    """Records in memory."""

    records: list[Record]
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> Record:
        return self.records[number]


def read_records(raw: Path, images: Path | None, words: int) -> Iterator[Record]:
    """The posts of all splits in `raw`, each with the size of its picture and a stand-in for its chain of thought."""
    for split in SPLITS:
        if (raw / f"{split}_src.txt").is_file():
            for post in read_cmkp(raw, split):
                if not isinstance(post, Reject):
                    width, height = picture_size(post, images)
                    yield Record(post.id, post.text, b"header", width, height, post.keyphrases, why(post, words))


def picture_size(post: Post, images: Path | None) -> tuple[int, int]:
    """Width and height in pixels, as the picture stands upright."""
    if images is None or not (images / post.image).is_file():
        return seeded(post.image).choice(SIZES)
    with Image.open(images / post.image) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return image.size[::-1] if turned else image.size


def why(post: Post, words: int) -> str:
    """About `words` words, of the post and of `WHY`."""
    count = max(20, round(seeded(post.id).gauss(words, words / 5)))
    listed = f"{post.text} suggests {' and '.join(post.keyphrases)}. {WHY * (count // 90 + 1)}".split()
    return " ".join(listed[:count])


def seeded(name: str) -> random.Random:
    """The same numbers for the same name."""
    return random.Random(hashlib.sha256(name.encode()).digest())


def report(records: Posts, recipe: Recipe, size: RowSize, *, rows: int) -> None:
    """Prints a line a way of packing: posts, rows, and the share of each kind of slot that is filled."""
    lengths = measure_posts(records, recipe)
    names = list(size.slots())
    mean = sizes_of(lengths, BOTH).mean(axis=0)
    print("a post on average, with both targets:", ", ".join(f"{m:,.1f} {n}" for n, m in zip(names, mean, strict=True)))
    print(
        f"{'packed':<12}{'posts':>8}{'left out':>9}{'rows':>7}{'a row':>7}" + "".join(f"{name:>10}" for name in names)
    )
    packings: dict[str, Sequence[Branch]] = {"sft alone": ("sft",), "cot alone": ("cot",), "both": BOTH}
    for name, branches in packings.items():
        posts, left_out = select_posts(lengths, size, branches)
        sizes = sizes_of(lengths, branches)
        plan = plan_epoch(sizes, size, seed=0, epoch=0, batch_rows=rows, posts=posts)
        filled = fill(plan, sizes, size)
        most = max(filled, key=filled.get)
        cells = "".join(f"{f'{value:.3f}' + '*' * (slots == most):>10}" for slots, value in filled.items())
        print(f"{name:<12}{len(posts):>8,}{len(left_out):>9,}{plan.rows:>7,}{len(posts) / plan.rows:>7.2f}{cells}")
    print("* the slots that bind")


def main() -> None:
    config = get_config()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--ranks", type=Path, required=True)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--words", type=int, default=110)
    for name, slots in row_size(config.row, Qwen2_5_VLProcessor(image_token=0)).slots().items():
        parser.add_argument(f"--{name}", type=int, default=slots, help="slots of a row")
    args = parser.parse_args()

    tokenizer = qwen_tokenizer(args.ranks)
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    processor = Qwen2_5_VLProcessor(image_token)
    recipe = Recipe(processor.template(tokenizer), processor, config.data.max_text_tokens)
    kinds = row_size(config.row, processor).slots()
    size = RowSize.from_slots({name: getattr(args, name) for name in kinds})
    records = Posts(list(read_records(args.raw, args.images, args.words)))
    print(describe_machine())
    print(f"{len(tokenizer):,} tokens in the vocabulary, <|image_pad|> is {image_token:,}")
    words = np.mean([len(record.cot.split()) for record in records.records])
    drawn = "picture sizes from the files" if args.images else "picture sizes drawn, as no --images are given"
    print(f"{len(records):,} posts of {args.raw.name}, {drawn}; {words:.0f} words of thought each")
    print("a row:", ", ".join(f"{slots:,} {name}" for name, slots in size.slots().items()))
    report(records, recipe, size, rows=config.global_batch_size)


if __name__ == "__main__":
    main()
