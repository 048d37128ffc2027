"""Exports a step of a run as a Hugging Face folder with its card, and verifies it with transformers."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mmkp_jax.data.examples import Recipe, tree_of
from mmkp_jax.data.forest import Tree
from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import Record, text_of
from mmkp_jax.data.records import Split, dataset_folders, open_split, rejected_posts
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import seen_keyphrases
from mmkp_jax.evaluation.significance import RESAMPLES, intervals
from mmkp_jax.evaluation.systems import read_system
from mmkp_jax.families.registry import define
from mmkp_jax.hf.card import Base, CardFacts, DatasetFacts, Environment, Results, card_of, licence_of
from mmkp_jax.hf.export import TensorCounts, export_folder
from mmkp_jax.hf.folder import CONFIG, Folder, digests, open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.names import compact
from mmkp_jax.hf.preprocessor import with_settings
from mmkp_jax.hf.prompt_limits import PromptLimits
from mmkp_jax.hf.verify import our_logits, reference_outputs
from mmkp_jax.inference.evaluate import TEST
from mmkp_jax.inference.load_model import LoadedModel, checkpoint_of, load_model, open_base, verify_checkpoint
from mmkp_jax.inference.predictor import Predictor
from mmkp_jax.inference.run_config import run_config
from mmkp_jax.models.definition import Definition, Params, flatten
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import lora_of
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.hosts import is_writer
from mmkp_jax.runtime.json_files import read_object, read_rows
from mmkp_jax.training.batches import Dataset, datasets_of

VERIFIED = 16
"""Posts of the test split that an export is verified on."""

EXPORTS = "export"
"""The folder of a work directory that holds a run's own exports, one folder a step."""

BASE = "base.json"
"""The file of a work directory that holds the digests of the base's files when the run began."""

_RESTORE_BASE = "restore the base model of the run (config.model.path)"


class RunStep(NamedTuple):
    """A step of a run to export."""

    workdir: Path
    config: ConfigDict
    base: Folder
    """The model folder that the run started from."""
    number: int
    params: Params
    definition: Definition


class Verification(NamedTuple):
    """Differences between an export, the run and transformers, over some posts."""

    posts: int
    logits: float
    """Largest difference between transformers' logits and ours on the export, as a share of the largest logit."""
    other_answers: list[str]
    """Ids of posts for which the two complete differently."""
    rounding: float
    """Largest difference between logits of the export and of the run's parameters."""
    largest: float
    """The largest logit."""


def open_step(workdir: Path, step: str) -> tuple[RunStep, LoadedModel]:
    """Opens the checkpoint of a step (a number, `latest` or `best`), also as a model to predict with.

    Raises:
        InputError: there is no such run or checkpoint, it trained nothing, or its base is missing or has changed.
    """
    if not (workdir / CONFIG).is_file():
        raise InputError("there is no run here", str(workdir), "give a run's work directory")
    config = run_config(workdir)
    if config.strategy == "zeroshot":
        raise InputError("a zero-shot run trains nothing", str(workdir), f"use its model, {config.model.path}")
    checkpoint = checkpoint_of(workdir, step)
    base = open_base(workdir, config)
    check_base(workdir, base)
    verify_checkpoint(checkpoint)
    _check_shapes(checkpoint / "state", config, base)
    loaded = load_model(f"{workdir}@{step if step == 'best' else checkpoint.name}", verified=True)
    return RunStep(workdir, config, base, int(checkpoint.name), loaded.params, loaded.definition), loaded


def check_exports(config: ConfigDict, base: Folder) -> None:
    """Raises `InputError` before training if the run's exports are bound to fail."""
    if config.export_every and not config.eval_every:
        what = f"every {config.export_every} evaluations are exported, but eval_every is 0"
        raise InputError(what, "config.export_every", "give config.eval_every, or 0 here")
    if config.eval_every:
        with_settings(base.path, base.family, config.data.images.to_dict())


def record_base(workdir: Path, base: Folder) -> None:
    """Records the digests of the base's files; if they are recorded already, they must be the same.

    Raises:
        InputError: they differ.
    """
    check_base(workdir, base)
    write_json(workdir / BASE, digests(base))


def check_base(workdir: Path, base: Folder) -> None:
    """Raises `InputError` if the base's files are not those that the run recorded, if it recorded any.

    Frozen tensors are compared number by number when they are exported; here only their names and shapes are checked.
    """
    if not (workdir / BASE).is_file():
        return
    recorded = read_object(workdir / BASE, "restore the file, or remove it to accept the base as it is now")
    before, now = {name: recorded.text(name) for name in recorded.content}, digests(base)
    if changed := [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]:
        what = f"files have changed since the run began: {', '.join(changed)}"
        raise InputError(what, str(base.path), _RESTORE_BASE)


def _check_shapes(state: Path, config: ConfigDict, base: Folder) -> None:
    """Raises `InputError` if the base's config does not describe the parameters of a checkpoint."""
    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata(state.absolute()).tree
    except Exception as error:  # damaged files raise any kind of error
        reason = " ".join(str(error).split())
        raise InputError(f"the checkpoint cannot be read ({reason})", str(state.parent), "give another step") from None
    parts = [part for part in ("trainable", "frozen") if part in metadata]
    there = {path: tuple(leaf.shape) for part in parts for path, leaf in flatten(metadata[part]).items()}
    definition = define(base.config, base.config_file, lora=lora_of(config))
    shapes = split_trained(definition, definition.shapes(), config.freeze)[: len(parts)]
    here = {path: leaf.shape for part in shapes for path, leaf in flatten(part).items()}
    if others := [path for path in sorted(there.keys() | here.keys()) if there.get(path) != here.get(path)]:
        raise InputError(
            f"it is not the base that the run started from: the checkpoint has other shapes of {compact(others)}",
            str(base.path),
            _RESTORE_BASE,
        )


def export_into_run(step: RunStep) -> None:
    """Exports a step to `export/{step}` in the work directory, replacing what an earlier start wrote there.

    All hosts call this; one writes.

    Raises:
        InputError: as `export_folder`.
    """
    out = step.workdir / EXPORTS / str(step.number)
    _export(step, card_of(facts_of(step)) if is_writer() else "", out, replace=True)
    print(f"exported: {out}")


def export(step: RunStep, facts: CardFacts, out: Path) -> TensorCounts:
    """Writes the folder, with a card of the facts.

    Raises:
        InputError: as `export_folder`.
    """
    return _export(step, card_of(facts), out)


def _export(step: RunStep, card: str, out: Path, **options: Any) -> TensorCounts:
    images = step.config.data.images.to_dict()
    trained, frozen = split_trained(step.definition, step.params, step.config.freeze)
    options["definition"] = step.definition if step.definition.lora else None
    limits = PromptLimits(step.config.data.max_text_tokens, step.config.answer_tokens)
    return export_folder(trained, frozen, step.base, out, images=images, limits=limits, card=card, **options)


def facts_of(step: RunStep, repo: str = "") -> CardFacts:
    """The card's facts about a step (`repo` on the hub); without the dataset, it has no data and scores."""
    data, results, no_data = [], None, ""
    try:
        datasets = datasets_of(step.config)
        data = [_data(each) for each in datasets]
        results = _results(step, datasets[0].path)
    except InputError as error:
        data, no_data = [], str(error)
    path, rejects = step.config.model.path, step.workdir / "rejects.jsonl"
    local = Path(path).is_dir()
    return CardFacts(
        repo=repo,
        family=step.base.family,
        base=Base(Path(path).resolve().name if local else path, not local, licence_of(step.base.path)),
        config=step.config.to_dict(),
        step=step.number,
        dtypes=sorted({tensor.dtype for tensor in step.base.tensors.values()}),
        data=data,
        left_out=sum(1 for _ in read_rows(rejects)) if rejects.is_file() else 0,
        results=results,
        no_data=no_data,
        environment=_environment(step.workdir / "environment.json"),
    )


def _environment(file: Path) -> Environment:
    """The card's facts about the run's environment; empty if that was not recorded."""
    if not file.is_file():
        return Environment()
    fields = read_object(file, "remove it; the card then has no devices and versions")
    packages = fields.object("packages", {})
    return Environment({name: packages.text(name) for name in packages.content}, fields.text("device_kind", ""))


def _data(dataset: Dataset) -> DatasetFacts:
    splits = {"train": open_split(dataset.path, "train")}
    for name in ("valid", TEST):
        with contextlib.suppress(InputError):  # not every dataset has them
            splits[name] = open_split(dataset.path, name)
    folder = dataset_folders(Path(dataset.path))[0]  # as TFDS has it: name, config if any, version
    return DatasetFacts(
        folder.relative_to(dataset.path).parent.as_posix(),
        dataset.weight,
        {name: len(split) for name, split in splits.items()},
        {name: split.fingerprint for name, split in splits.items()},
    )


def _results(step: RunStep, data: str) -> Results | None:
    """Scores of the run's own predictions at this step; None if it was not evaluated."""
    file = step.workdir / "predictions" / f"{TEST}-{step.number}.jsonl"
    if not file.is_file():
        return None
    predicted = {row.text("id") for row in read_rows(file)}
    posts = [*map(text_of, each_of(open_split(data, TEST))), *rejected_posts(data, TEST)]
    test = [post for post in posts if post.id in predicted]
    splits = (open_split(dataset.path, "train") for dataset in datasets_of(step.config))
    train = (text_of(record) for split in splits for record in each_of(split))
    system = read_system([file], test, seen_keyphrases(step.config.data.train_keyphrases, train), None)
    return Results(system.mean, intervals(system.runs), RESAMPLES)


def verify(step: RunStep, loaded: LoadedModel, out: Path, posts: int = VERIFIED) -> Verification:
    """Compares transformers with our model, both on the export in float32, over the first posts of the test split.

    Raises:
        InputError: the run's dataset or the export cannot be opened.
    """
    records, trees = _posts(open_split(datasets_of(step.config)[0].path, TEST), loaded.recipe, posts)
    structs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding), loaded.params
    )
    params = load_params(open_folder(str(out)), structs)
    predictor = Predictor(
        loaded.definition,
        params,
        loaded.recipe,
        loaded.tokenizer,
        stop_tokens=loaded.stop_tokens,
        batch_size=loaded.batch_size,
        answer_tokens=loaded.answer_tokens,
        dtype=jnp.float32,
    )
    with jax.default_matmul_precision("highest"):
        answers = dict(predictor.predict(records))
    live = our_logits(loaded.definition, loaded.params, trees)
    ours = our_logits(loaded.definition, params, trees)
    theirs = reference_outputs(
        loaded.definition.family, out, trees, [record.image for record in records], loaded.answer_tokens
    )
    logits = rounding = largest = 0.0
    others = []
    for number, (live_MV, our_MV, their) in enumerate(zip(live, ours, theirs, strict=True)):
        # numpy's, since Python's max ignores NaN
        logits = np.maximum(logits, np.abs(our_MV - their.logits_MV).max())
        rounding = np.maximum(rounding, np.abs(our_MV - live_MV).max())
        largest = np.maximum(largest, np.abs(their.logits_MV).max())
        if (answers[number].output, answers[number].tokens) != (their.completion, their.tokens):
            others.append(records[number].id)
    return Verification(len(records), float(logits / largest), others, float(rounding), float(largest))


def _posts(split: Split, recipe: Recipe, posts: int) -> tuple[list[Record], list[Tree]]:
    """The first usable posts, with their keyphrases as target."""
    records, trees = [], []
    for number in range(len(split)):
        if len(records) == posts:
            break
        with contextlib.suppress(ImageError):  # evaluation counts and lists these posts
            trees.append(tree_of(split[number], recipe, ("sft",)))
            records.append(split[number])
    return records, trees
