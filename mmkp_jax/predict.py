"""Posts → keyphrases: `python -m mmkp_jax.predict --model=FOLDER|WORKDIR[@STEP|@best] …`.

The posts are a prepared dataset's (--data, --split), a file's (--posts, --images), or one (--text, --image). With
--base_url, the model is one behind an OpenAI-compatible endpoint, and gets the prompt of --zero_shot. An interrupted
command goes on where it stood when it is given again; one that --max_cost stops ends with the exit status 3, and one to
which no post is answered with 4.
"""

import argparse
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mmkp_jax.commands import Parser, status_of
from mmkp_jax.data.posts import Post, Record, Reject, own_post, read_cmkp, read_jsonl
from mmkp_jax.data.tidying import Notes
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import CMKP_ENDING
from mmkp_jax.evaluation.outputs import outputs_line
from mmkp_jax.evaluation.predictions import Prediction, write_predictions
from mmkp_jax.journal import Journal
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.teacher.flags import (
    add_endpoint_flags,
    check_endpoint_flags,
    endpoint_of,
    prices_of,
    refuse_endpoint_flags,
)
from mmkp_jax.teacher.questions import PostRecords
from mmkp_jax.teacher.session import NOTHING, STOPPED, NothingError, answered, print_bill
from mmkp_jax.teacher.store import answers_file
from mmkp_jax.teacher.zero_shot import predictions_of, reject, zero_shot_questions

if TYPE_CHECKING:
    from mmkp_jax.predicting import Unfed

INPUTS = {"data": ("split",), "posts": ("images",), "text": ("image",)}
"""The flags that name posts, and those that only go with them."""

SHARED = ("model", "temperature", "max_tokens")
"""Flags of a local model and of an endpoint."""
LOCAL = ("zero_shot", "top_p", "seed", "n", "batch_size")
"""Flags of a local model alone."""
MAX_TOKENS = 384
"""Of an endpoint's answer."""

REASONING = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("predict", __doc__)
    add = flags.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="required: a Hugging Face folder, a hub id, or a work directory: DIR[@STEP|@best]; "
        "with --base_url, as the endpoint names it",
    )
    add("--data", type=Path, metavar="DIR", help="a prepared dataset")
    add("--split", metavar="NAME", help="of --data: which of its splits")
    add("--posts", type=Path, metavar="FILE", help=f"JSON Lines (.jsonl), or CMKP ({{split}}{CMKP_ENDING})")
    add("--images", type=Path, metavar="DIR", help="of --posts: the folder that their images are relative to")
    add("--text", metavar="TEXT", help="one post's text")
    add("--image", type=Path, metavar="FILE", help="of --text: its image")
    add("--out", type=Path, metavar="FILE", help="predictions: JSON Lines (.jsonl), else CMKP's form, a line a post")
    add("--explain", action="store_true", help="show the reasoning behind each answer")
    add("--zero_shot", action="store_true", help="tell the output's format, to a model that has not learnt it")
    add("--temperature", type=float, default=0.0, metavar="F", help="of sampling; 0 takes the likeliest token (0)")
    add("--top_p", type=float, default=1.0, metavar="F", help="sample from the likeliest tokens of this share (1)")
    add("--seed", type=int, default=0, metavar="N", help="of sampling (0)")
    add("--n", type=int, default=1, metavar="N", help="answers a post; keyphrases of more of them come first (1)")
    add("--max_tokens", type=int, metavar="N", help="most tokens of an answer (the run's, or 384)")
    add("--batch_size", type=int, metavar="N", help="answers decoded at a time (the run's, or 32)")
    add_endpoint_flags(flags, MAX_TOKENS, but=SHARED)
    return flags


def run(arguments: Sequence[str] | None = None) -> list[Prediction] | None:
    """Predicts as the flags say, printed and written; in the posts' order. None where --max_cost came first."""
    flags = _parse(arguments)
    ids, read = _posts(flags)
    if flags.base_url:
        return _through_endpoint(ids, read, flags)
    journal = Journal(flags.out, ids) if flags.out else None
    found = dict(journal.found) if journal else {}
    left = [number for number in range(len(ids)) if number not in found]
    if found:
        print(for_terminal(f"{len(found):,} of {len(ids):,} posts are predicted in {flags.out} already"))
    unfed: list[Unfed] = []
    predictions = _predicted(Rows(read, left), flags, unfed) if left else iter(())
    with tqdm(total=len(ids), initial=len(found), unit="post", dynamic_ncols=True, disable=len(left) < 2) as bar:
        for number, prediction in journal.write(predictions) if journal else predictions:
            found[number] = prediction
            bar.update()
    in_order = [found[number] for number in range(len(ids))]
    _print_unfed(unfed, len(left))
    if flags.explain:
        print("\n".join(map(_explained, in_order)))
    if flags.out:
        _print_written(flags.out, in_order)
    elif not flags.explain:
        print(for_terminal("; ".join(in_order[0].predicted)))
    return in_order


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line on what was wrong; 3 when --max_cost came first; 4 after a line on why an
    endpoint answered no post; 130 when interrupted, after a line on how to continue.
    """

    def status(arguments: Sequence[str] | None) -> int:
        try:
            return STOPPED if run(arguments) is None else 0
        except NothingError as error:
            print(for_terminal(str(error)), file=sys.stderr)
            return NOTHING

    told = "interrupted; the same command goes on from what is in --out, or in --store"
    return status_of(status, arguments, interrupted=told)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    if not parsed.model:
        flags.error("--model=FOLDER or WORKDIR is not given")
    given = [name for name in INPUTS if getattr(parsed, name) is not None]
    if len(given) != 1:
        told = " and ".join(f"--{name}" for name in given) if given else "no posts"
        flags.error(f"{told} given: give one of --data, --posts and --text")
    for name, others in INPUTS.items():
        for other in others:
            if name not in given and getattr(parsed, other) is not None:
                flags.error(f"--{other} goes with --{name}")
    if parsed.data and not parsed.split:
        flags.error("--data=DIR needs --split=NAME")
    if parsed.text is None and not parsed.out:
        flags.error("--out=FILE is not given")
    for name, low, high in (("temperature", 0, 100), ("top_p", 1e-6, 1), ("n", 1, 1000)):
        if not low <= getattr(parsed, name) <= high:
            flags.error(f"--{name}={getattr(parsed, name)} is not from {low} to {high}")
    for name in ("max_tokens", "batch_size"):
        if (value := getattr(parsed, name)) is not None and value < 1:
            flags.error(f"--{name}={value} is less than 1")
    if parsed.n > 1 and not parsed.temperature:
        flags.error("--n above 1 needs --temperature above 0: else all answers are the same")
    if parsed.base_url is None:
        refuse_endpoint_flags(parsed, flags, but=SHARED)
        return parsed
    if parsed.text is not None:
        flags.error("--base_url takes --data or --posts, not --text")
    for name in LOCAL:
        if getattr(parsed, name) != flags.get_default(name):
            flags.error(f"--{name} does not go with --base_url" + "; --extra_body may" * (name in ("top_p", "seed")))
    parsed.max_tokens, parsed.store = parsed.max_tokens or MAX_TOKENS, parsed.store or answers_file(parsed.out)
    check_endpoint_flags(parsed, flags)
    return parsed


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some of the posts, read when they are asked for."""

    read: Callable[[int], Record | Reject]
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Record | Reject:
        return self.read(self.numbers[number])


def _posts(flags: argparse.Namespace) -> tuple[list[str], Callable[[int], Record | Reject]]:
    """The posts' ids, and how to read each."""
    from mmkp_jax.data.blocks import record_of
    from mmkp_jax.data.records import open_split, rejected_posts

    if flags.data:
        split, rejected = open_split(flags.data, flags.split), rejected_posts(flags.data, flags.split)
        refused = [Reject(post.id, post.file, post.line, *REFUSED, post) for post in rejected]
        ids = [split[number].id for number in range(len(split))] + [post.id for post in rejected]
        return ids, lambda number: split[number] if number < len(split) else refused[number - len(split)]
    if flags.posts:
        posts = _listed(flags.posts)
        if flags.images is None and (shown := next((each for each in posts if getattr(each, "image", None)), None)):
            raise InputError(f"the post {shown.id!r} has an image", str(flags.posts), "give --images=DIR")
        if flags.images and not flags.images.is_dir():
            raise InputError("there is no such folder of images", str(flags.images), "give the folder that holds them")
        if flags.base_url:  # whatever is wrong with them is told before any money is spent
            for bad in posts:
                if isinstance(bad, Reject):
                    raise bad.as_error()
            return [post.id for post in posts], PostRecords(posts, flags.images).__getitem__
        return [post.id for post in posts], lambda number: record_of(posts[number], flags.images or Path())
    from mmkp_jax.predicting import read_post

    post = read_post("text", flags.text, flags.image)
    return [post.id], lambda _: post


REFUSED = "it could not be used when the dataset was prepared", "see its rejects.jsonl"


def _listed(file: Path) -> list[Post | Reject]:
    """A file's posts, and rejects for those of its lines that are named but none; keyphrases may be left out."""
    if file.name.endswith(CMKP_ENDING):
        rows = read_cmkp(file.parent, file.name.removesuffix(CMKP_ENDING))
    elif file.suffix == ".jsonl":
        rows = read_jsonl(file, post_of=_post_of)
    else:
        what, mend = "its name tells no layout of posts", f"name it .jsonl or {{split}}{CMKP_ENDING}"
        raise InputError(what, str(file), mend)
    listed: dict[str, Post | Reject] = {}
    for row in rows:
        if isinstance(row, Reject) and (row.id is None or row.id in listed):
            raise row.as_error()
        listed[row.id] = row
    if not listed:
        raise InputError("it holds no posts", str(file), "give one with a post a line")
    return list(listed.values())


def _post_of(row: dict[str, Any], file: str, number: int, notes: Notes | None = None) -> Post:
    row = row | {"cot": None}  # nothing is predicted from it
    if row.get("keyphrases"):
        return own_post(row, file, number, notes)
    return dataclasses.replace(own_post(row | {"keyphrases": ["unknown"]}, file, number, notes), keyphrases=())


def _predicted(rows: Rows, flags: argparse.Namespace, unfed: "list[Unfed]") -> Iterator[tuple[int, Prediction]]:
    """(number, prediction) of the posts in `rows`, as their answers end; those that cannot be fed go to `unfed`."""
    from mmkp_jax.decoding.sampling import Sampling
    from mmkp_jax.predicting import load_predictor

    predictor = load_predictor(
        flags.model,
        zero_shot=flags.zero_shot,
        batch_size=flags.batch_size,
        answer_tokens=flags.max_tokens,
        sampling=Sampling(flags.temperature, flags.top_p, flags.seed),
        draws=flags.n,
    )
    for number, prediction in predictor.predict(rows, unfed.append):
        yield rows.numbers[number], prediction


def _through_endpoint(
    ids: Sequence[str], read: Callable[[int], Record | Reject], flags: argparse.Namespace
) -> list[Prediction] | None:
    """The predictions of all posts, from the answers in --store; None where --max_cost came first."""
    endpoint = endpoint_of(flags)
    questions = len(ids), zero_shot_questions(read, endpoint, flags.image_edge), endpoint
    if flags.dry_run:
        print_bill(flags, *questions)
        return []
    if flags.out.exists() and not flags.store.exists():
        raise InputError("this is there already", str(flags.out), "name another --out, or remove it")
    with answered(flags, *questions, reject=reject) as (done, store):
        predictions, unfed, unanswered = ([], [], []) if done.stopped else predictions_of(ids, read, done, store)
    print("\n".join(done.lines(prices_of(flags))))
    if done.stopped:
        print(f"not written, as some predictions are missing: {flags.out}")
        return None
    write_predictions(flags.out, predictions)
    _print_unfed(unfed, len(ids))
    _print_unfed(unanswered, len(ids), "got no whole answer")
    if flags.explain:
        print("\n".join(map(_explained, predictions)))
    _print_written(flags.out, predictions)
    if predictions and len(unfed) + len(unanswered) == len(predictions):
        (reason, count), *_ = Counter(reason for _, reason in (*unanswered, *unfed)).most_common(1)
        raise NothingError(f"none of {len(ids):,} posts got an answer, most often ({count:,}): {reason}")
    return predictions


def _print_unfed(unfed: Sequence[tuple[str, str]], total: int, what: str = "could not be fed") -> None:
    if unfed:
        print(f"{len(unfed):,} of {total:,} posts {what}, and nothing is predicted for them:")
        print("\n".join(for_terminal(f"  {post}: {reason}") for post, reason in unfed))


def _print_written(out: Path, predictions: Sequence[Prediction]) -> None:
    print(outputs_line([each.form for each in predictions], [each.output for each in predictions]))
    print(for_terminal(f"written: {out}"))


def _explained(prediction: Prediction) -> str:
    thought = REASONING.search(prediction.output)
    why = " ".join(thought[1].split()) if thought else "answered without reasoning"
    lines = [prediction.id, f"  reasoning  {why}", f"  predicted  {'; '.join(prediction.predicted) or '–'}"]
    return "\n".join(map(for_terminal, lines))


if __name__ == "__main__":
    sys.exit(main())
