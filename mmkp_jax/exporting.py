"""A run's checkpoint as a Hugging Face folder, what its card says of the run, and transformers' own word on it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mmkp_jax.data.examples import Recipe, tree_of
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.images import ImageError
from mmkp_jax.data.posts import Record
from mmkp_jax.data.records import Split, dataset_folders, open_split, rejected_posts
from mmkp_jax.errors import InputError
from mmkp_jax.evaluate import TEST, Words, seen_keyphrases
from mmkp_jax.evaluation.files import read_lines
from mmkp_jax.evaluation.significance import RESAMPLES, intervals
from mmkp_jax.evaluation.systems import read_system
from mmkp_jax.feeding import Dataset, datasets_of
from mmkp_jax.hf.card import Base, Data, Facts, Results, card_of, licence_of
from mmkp_jax.hf.export import Counts, export_folder
from mmkp_jax.hf.folder import CONFIG, Folder, open_folder, read_json
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.names import compact
from mmkp_jax.hf.verify import our_logits, their_answers
from mmkp_jax.models.definition import define, flatten
from mmkp_jax.opening import Opened, checkpoint_of, open_model
from mmkp_jax.optim import split_params
from mmkp_jax.predicting import Predictor

VERIFIED = 16
"""Posts of the test split that an export is verified on."""


class Run(NamedTuple):
    """A checkpoint to export."""

    workdir: Path
    config: ConfigDict
    step: int
    base: Folder
    opened: Opened


class Verdict(NamedTuple):
    """How far an export and the run's own numbers are apart, over some posts."""

    posts: int
    logits: float
    """transformers against ours, both from the export: the largest difference, as a share of the largest logit."""
    other_answers: list[str]
    """Ids of posts that the two answer differently."""
    rounding: float
    """Export against the run's parameters: the largest difference of a logit."""
    largest: float
    """The largest logit."""


def open_run(workdir: Path, step: str) -> Run:
    """Opens the checkpoint of a step: a number, `latest` or `best`.

    Raises:
        InputError: there is no such run or checkpoint, it trained nothing, or its base is gone or another one.
    """
    if not (workdir / CONFIG).is_file():
        raise InputError("there is no run here", str(workdir), "give a run's work directory")
    config = ConfigDict(read_json(workdir / CONFIG))
    if "strategy" not in config:
        raise InputError(f"its {CONFIG} is not a run's", str(workdir), "give a run's work directory")
    if config.strategy == "zeroshot":
        raise InputError("a zero-shot run trains nothing", str(workdir), f"take its model, {config.model.path}")
    checkpoint = checkpoint_of(workdir, step)
    if Path(config.model.path).is_dir():  # one that is gone is told of below
        _check_shapes(checkpoint / "state", open_folder(config.model.path))
    opened = open_model(f"{workdir}@{step if step == 'best' else checkpoint.name}")
    return Run(workdir, config, int(checkpoint.name), open_folder(config.model.path), opened)


def _check_shapes(state: Path, base: Folder) -> None:
    """Refuses a base whose config no longer describes the parameters of a checkpoint."""
    told = ocp.PyTreeCheckpointHandler().metadata(state.absolute()).tree
    there = {path: tuple(leaf.shape) for part in ("trainable", "frozen") for path, leaf in flatten(told[part]).items()}
    here = {path: leaf.shape for path, leaf in flatten(define(base.config).shapes()).items()}
    if others := [path for path in sorted(there.keys() | here.keys()) if there.get(path) != here.get(path)]:
        raise InputError(
            f"it is not what the run began with: the checkpoint has other shapes of {compact(others)}",
            str(base.path),
            "bring back the base of the run (config.model.path)",
        )


def export(run: Run, facts: Facts, out: Path) -> Counts:
    """Writes the folder, with a card that tells the facts.

    Raises:
        InputError: as `export_folder`.
    """
    limits = run.config.data.min_pixels, run.config.data.max_pixels
    trained, frozen = split_params(run.opened.params, run.config.freeze)
    return export_folder(trained, frozen, run.base, out, pixels=limits, card=card_of(facts))


def facts_of(run: Run, repo: str = "") -> Facts:
    """What the card says of a run, which is `repo` on the hub; without the dataset, nothing of data and scores."""
    data, results, no_data = [], None, ""
    try:
        datasets = datasets_of(run.config)
        data = [_data(each) for each in datasets]
        results = _results(run, datasets[0].path)
    except InputError as error:
        data, no_data = [], str(error)
    path, rejects = run.config.model.path, run.workdir / "rejects.jsonl"
    local = Path(path).is_dir()
    environment = run.workdir / "environment.json"
    return Facts(
        repo=repo,
        base=Base(Path(path).resolve().name if local else path, not local, licence_of(run.base.path)),
        config=run.config.to_dict(),
        step=run.step,
        dtypes=sorted({tensor.dtype for tensor in run.base.tensors.values()}),
        data=data,
        left_out=len(rejects.read_text(encoding="utf-8").splitlines()) if rejects.is_file() else 0,
        results=results,
        no_data=no_data,
        environment=read_json(environment) if environment.is_file() else {},
    )


def _data(dataset: Dataset) -> Data:
    splits = {"train": open_split(dataset.path, "train")}
    for name in ("valid", TEST):
        with contextlib.suppress(InputError):  # not every dataset has them
            splits[name] = open_split(dataset.path, name)
    folder = dataset_folders(Path(dataset.path))[0]  # of TFDS: name, config if there is any, version
    return Data(
        folder.relative_to(dataset.path).parent.as_posix(),
        dataset.weight,
        {name: len(split) for name, split in splits.items()},
        {name: split.fingerprint for name, split in splits.items()},
    )


def _results(run: Run, data: str) -> Results | None:
    """Scores of the run's own predictions of this step; None where it was not evaluated."""
    file = run.workdir / "predictions" / f"{TEST}-{run.step}.jsonl"
    if not file.is_file():
        return None
    predicted = {json.loads(line)["id"] for line in read_lines(file)}
    test = [post for post in [*_words(data, TEST), *rejected_posts(data, TEST)] if post.id in predicted]
    train = (post for dataset in datasets_of(run.config) for post in _words(dataset.path, "train"))
    system = read_system([file], test, seen_keyphrases(run.config, train), None)
    return Results(system.mean, intervals(system.runs), RESAMPLES)


def _words(data: str, split: str) -> Iterator[Words]:
    records = open_split(data, split)
    for record in (records[number] for number in range(len(records))):
        yield Words(record.id, record.text, record.keyphrases)


def verify(run: Run, out: Path, posts: int = VERIFIED) -> Verdict:
    """Holds transformers against our model, both on the export in float32, over the first posts of the test split.

    Raises:
        InputError: the run's dataset or the export cannot be opened.
    """
    opened = run.opened
    records, trees = _posts(open_split(datasets_of(run.config)[0].path, TEST), opened.recipe, posts)
    structs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding), opened.params
    )
    params = load_params(open_folder(str(out)), structs)
    predictor = Predictor(
        opened.definition,
        params,
        opened.recipe,
        opened.tokenizer,
        batch_size=opened.batch_size,
        answer_tokens=opened.answer_tokens,
        dtype=jnp.float32,
    )
    with jax.default_matmul_precision("highest"):
        answers = dict(predictor.predict(records))
    live = our_logits(opened.definition, opened.params, trees)
    ours = our_logits(opened.definition, params, trees)
    theirs = their_answers(out, trees, [record.image for record in records], opened.answer_tokens)
    apart = rounding = largest = 0.0
    others = []
    for number, (live_MV, our_MV, their) in enumerate(zip(live, ours, theirs, strict=True)):
        apart = max(apart, float(np.abs(our_MV - their.logits_MV).max()))
        rounding = max(rounding, float(np.abs(our_MV - live_MV).max()))
        largest = max(largest, float(np.abs(their.logits_MV).max()))
        if (answers[number].output, answers[number].tokens) != (their.answer, their.tokens):
            others.append(records[number].id)
    return Verdict(len(records), apart / largest, others, rounding, largest)


def _posts(split: Split, recipe: Recipe, posts: int) -> tuple[list[Record], list[Tree]]:
    """The first posts that can be fed, with the keyphrases as their target."""
    records, trees = [], []
    for number in range(len(split)):
        if len(records) == posts:
            break
        with contextlib.suppress(ImageError):  # which evaluation counts and lists
            trees.append(tree_of(split[number], recipe, ("sft",)))
            records.append(split[number])
    return records, trees
