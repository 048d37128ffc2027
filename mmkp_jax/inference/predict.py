"""The body of `predict`: with a local model, or with one behind an endpoint."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmkp_jax.data.numbered import OnDemand
from mmkp_jax.data.posts import Record, Reject
from mmkp_jax.data.prompts import Mode
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import outputs_line, reasoning_in
from mmkp_jax.evaluation.predictions import Prediction, write_predictions
from mmkp_jax.inference.resumable_predictions import HINT, ResumablePredictions, write_each
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.progress import Progress
from mmkp_jax.teacher.flags import (
    endpoint_of,
    prices_of,
)
from mmkp_jax.teacher.session import NothingError, ask_questions, print_forecast
from mmkp_jax.teacher.templates import PROMPTS
from mmkp_jax.teacher.zero_shot import prediction_questions, predictions_of, why_no_prediction

if TYPE_CHECKING:
    from mmkp_jax.inference.predictor import SkippedPost

SAMPLE = 16
"""Least number of earlier predictions whose posts are compared, where there are as many."""

PLACE = "{mode}"
"""What stands for the mode in the name of --out."""


def predict(ids: Sequence[str], read: Callable[[int], Record | Reject], flags: argparse.Namespace) -> list[Prediction]:
    """The predictions of a local model in the posts' order, printed and written as the flags say.

    With several modes, those of the first come first.
    """
    modes: list[Mode] = flags.mode.split(",")
    outs = {mode: out_of(flags.out, mode) for mode in modes} if flags.out else {}
    files = {mode: ResumablePredictions(out, ids, mode) for mode, out in outs.items()}
    found = {mode: dict(files[mode].found) if files else {} for mode in modes}
    for mode, out in outs.items():
        _refuse_other_posts(out, found[mode], read)
    left = {n: missing for n in range(len(ids)) if (missing := [mode for mode in modes if n not in found[mode]])}
    for mode, out in outs.items():
        if found[mode]:
            print(for_terminal(f"{len(found[mode]):,} of {len(ids):,} posts are already predicted in {out}"))
    skipped: list[SkippedPost] = []
    predictions = _predicted(OnDemand(len(ids), read), left, flags, skipped) if left else iter(())
    options = dict(units="posts" if len(modes) == 1 else "answers", first="loading, compiling, first answers")
    there, total = sum(map(len, found.values())), len(ids) * len(modes)
    with Progress(total, initial=there, **options, leave=total - there > 1, disable=not left) as bar:
        for number, prediction in write_each(files, predictions) if files else predictions:
            found[prediction.mode][number] = prediction
            bar.advance()
    in_order = {mode: [found[mode][number] for number in range(len(ids))] for mode in modes}
    everything = [each for mode in modes for each in in_order[mode]]
    _print_skipped(skipped, len(left))
    if flags.explain:
        print("\n".join(_explained(each, named=len(modes) > 1) for each in everything))
    for mode, out in outs.items():
        _print_written(out, in_order[mode])
    if not outs and not flags.explain:
        print(for_terminal("; ".join(everything[0].predicted)))
    return everything


def out_of(out: Path, mode: str) -> Path:
    """The file of one mode: `out`, with the mode for `PLACE` in its name."""
    return out.with_name(out.name.replace(PLACE, mode)) if PLACE in out.name else out


def _predicted(
    posts: OnDemand[Record | Reject],
    missing: Mapping[int, Sequence[Mode]],
    flags: argparse.Namespace,
    skipped: "list[SkippedPost]",
) -> Iterator[tuple[int, Prediction]]:
    """Yields (number, prediction) as they finish, for posts by number and the modes that each lacks.

    Posts that cannot be used go to `skipped`.
    """
    from mmkp_jax.decoding.sampling import Sampling
    from mmkp_jax.inference.open_baseline import is_baseline, open_baseline
    from mmkp_jax.inference.predictor import load_predictor
    from mmkp_jax.models.compilation_cache import keep_compiled, user_cache

    keep_compiled(user_cache())
    left = list(missing)
    if is_baseline(flags.model):
        predictor = open_baseline(flags)
        yield from ((left[number], each) for number, each in predictor.predict(posts.select(left), skipped.append))
        return
    predictor = load_predictor(
        flags.model,
        adapter=flags.adapter,
        zero_shot=flags.zero_shot,
        batch_size=flags.batch_size,
        answer_tokens=flags.max_tokens,
        sampling=Sampling(flags.temperature, flags.top_p, flags.seed),
        num_samples=flags.n,
    )
    modes = list(missing.values())
    for number, prediction in predictor.predict(posts.select(left), skipped.append, modes=modes):
        yield left[number], prediction


def predict_through_endpoint(
    ids: Sequence[str], read: Callable[[int], Record | Reject], flags: argparse.Namespace
) -> list[Prediction] | None:
    """The predictions of all posts, from the answers in --store; None if --max_cost was reached first."""
    endpoint = endpoint_of(flags)
    questions = len(ids), prediction_questions(read, endpoint, flags.image_edge, PROMPTS[flags.prompt]), endpoint
    if flags.dry_run:
        print_forecast(flags, *questions)
        return []
    if flags.out.exists() and not flags.store.exists():
        raise InputError("this file exists already", str(flags.out), "name another --out, or remove it")
    with ask_questions(flags, *questions, reject=why_no_prediction) as (done, store):
        predictions, skipped, unanswered = ([], [], []) if done.stopped else predictions_of(ids, read, done, store)
    print("\n".join(done.lines(prices_of(flags))))
    if done.stopped:
        print(f"not written, since some predictions are missing: {flags.out}")
        return None
    write_predictions(flags.out, predictions)
    _print_skipped(skipped, len(ids))
    _print_skipped(unanswered, len(ids), "got no complete answer")
    if flags.explain:
        print("\n".join(map(_explained, predictions)))
    _print_written(flags.out, predictions)
    if predictions and len(skipped) + len(unanswered) == len(predictions):
        (reason, count), *_ = Counter(reason for _, reason in (*unanswered, *skipped)).most_common(1)
        raise NothingError(f"none of {len(ids):,} posts got an answer, most often ({count:,}): {reason}")
    return predictions


def _refuse_other_posts(out: Path, found: Mapping[int, Prediction], read: Callable[[int], Record | Reject]) -> None:
    """Raises `InputError` if what was predicted before is of other posts with the same ids, by a sample of them."""
    for number in list(found)[:: max(len(found) // SAMPLE, 1)]:
        post = read(number)
        own = post if isinstance(post, Record) else post.post
        if own and found[number].keyphrases and set(found[number].keyphrases) != set(own.keyphrases):
            raise InputError(f"it has predictions of other posts: {post.id!r} has other keyphrases", str(out), HINT)


def _print_skipped(skipped: Sequence[tuple[str, str]], total: int, what: str = "could not be used") -> None:
    if skipped:
        print(f"{len(skipped):,} of {total:,} posts {what}, and nothing is predicted for them:")
        print("\n".join(for_terminal(f"  {post}: {reason}") for post, reason in skipped))


def _print_written(out: Path, predictions: Sequence[Prediction]) -> None:
    print(outputs_line([each.form for each in predictions], [each.output for each in predictions]))
    print(for_terminal(f"written: {out}"))


def _explained(prediction: Prediction, *, named: bool = False) -> str:
    """The prediction in three lines, with its mode where it is `named`."""
    thought = reasoning_in(prediction.output)
    why = " ".join(thought.split()) if thought is not None else "answered without reasoning"
    head = f"{prediction.id}, --mode={prediction.mode}" if named else prediction.id
    lines = [head, f"  reasoning  {why}", f"  predicted  {'; '.join(prediction.predicted) or '–'}"]
    return "\n".join(map(for_terminal, lines))
