"""Exports a step of a run with its card: as a Hugging Face folder, or its adapter alone."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import text_of
from mmkp_jax.data.records import dataset_folders, open_split, rejected_posts
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.files import seen_keyphrases
from mmkp_jax.evaluation.significance import RESAMPLES, intervals
from mmkp_jax.evaluation.systems import read_system
from mmkp_jax.families.registry import define
from mmkp_jax.hf.adapter import adapter_tensors, write_adapter
from mmkp_jax.hf.card import CARD, Base, CardFacts, DatasetFacts, Environment, card_of, licence_of
from mmkp_jax.hf.card_results import Results
from mmkp_jax.hf.export import TensorCounts, appearing, export_folder
from mmkp_jax.hf.folder import CONFIG, Folder
from mmkp_jax.hf.names import compact
from mmkp_jax.hf.preprocessor import with_settings
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits
from mmkp_jax.inference.base import RESTORE_BASE, check_base, open_base
from mmkp_jax.inference.evaluate import TEST
from mmkp_jax.inference.load_model import LoadedModel, checkpoint_of, open_run, verify_checkpoint
from mmkp_jax.inference.run_config import run_config
from mmkp_jax.models.definition import Definition, Params, flatten
from mmkp_jax.models.freezing import split_trained
from mmkp_jax.models.lora import lora_of
from mmkp_jax.runtime.atomic import json_bytes
from mmkp_jax.runtime.hosts import is_writer
from mmkp_jax.runtime.json_files import read_object, read_rows
from mmkp_jax.training.batches import Dataset, datasets_of
from mmkp_jax.training.contents import check_contents, content_of_data

EXPORTS = "export"
"""The folder of a work directory that holds a run's own exports, one folder a step."""


class RunStep(NamedTuple):
    """A step of a run to export."""

    workdir: Path
    config: ConfigDict
    base: Folder
    """The model folder that the run started from."""
    number: int
    params: Params
    definition: Definition


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
    verify_checkpoint(checkpoint)
    _check_shapes(checkpoint / "state", config, base)
    loaded = open_run(workdir, step if step == "best" else checkpoint.name, config, verified=True)
    return RunStep(workdir, config, base, int(checkpoint.name), loaded.params, loaded.definition), loaded


def check_exports(config: ConfigDict, base: Folder) -> None:
    """Raises `InputError` before training if an export, by the run or after it, is bound to fail."""
    if config.export_every and not config.eval_every:
        what = f"every {config.export_every} evaluations are exported, but eval_every is 0"
        raise InputError(what, "config.export_every", "give config.eval_every, or 0 here")
    with_settings(base.path, base.family, config.data.images.to_dict())


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
            RESTORE_BASE,
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


def export(step: RunStep, facts: CardFacts, out: Path, *, adapter: bool = False) -> TensorCounts:
    """Writes the folder, with a card of the facts: the model, or with `adapter` only what LoRA trained.

    Raises:
        InputError: as `export_folder`, or the run has no adapter.
    """
    return (_export_adapter if adapter else _export)(step, card_of(facts), out)


def _export(step: RunStep, card: str, out: Path, **options: Any) -> TensorCounts:
    check_base(step.workdir, step.base)  # whose files are copied
    images = step.config.data.images.to_dict()
    trained, frozen = split_trained(step.definition, step.params, step.config.freeze)
    options["definition"] = step.definition if step.definition.lora else None
    limits = PromptLimits(step.config.data.max_text_tokens, step.config.answer_tokens)
    return export_folder(trained, frozen, step.base, out, images=images, limits=limits, card=card, **options)


def _export_adapter(step: RunStep, card: str, out: Path) -> TensorCounts:
    """Writes the adapter's folder, with the run's image settings and prompt limits; on one host."""
    trained, _ = split_trained(step.definition, step.params, step.config.freeze)
    tensors = adapter_tensors(step.definition, trained)
    data = step.config.data
    limits = PromptLimits(data.max_text_tokens, step.config.answer_tokens, images=data.images.to_dict())
    with appearing(out) as unfinished:
        (unfinished / PROMPT_LIMITS).write_bytes(json_bytes(limits.content()))
        (unfinished / CARD).write_text(card, encoding="utf-8")
        write_adapter(tensors, step.definition, base_name(step.config.model.path), unfinished)
    return TensorCounts(len(tensors), 0)


def base_name(path: str) -> str:
    """The base as PEFT finds it: a hub id, or the path of a local folder."""
    return str(Path(path).expanduser().resolve()) if Path(path).expanduser().is_dir() else path


def facts_of(step: RunStep, repo: str = "", *, adapter: bool = False) -> CardFacts:
    """The card's facts about a step (`repo` on the hub); without the dataset, it has no data and scores.

    Raises:
        InputError: `adapter`, and the run has none.
    """
    if adapter and step.definition.lora is None:
        what = "this run has no adapter: its weights were trained themselves (config.lora_rank=0)"
        raise InputError(what, str(step.workdir), "leave out --adapter")
    data, results, no_data = [], None, ""
    try:
        datasets = datasets_of(step.config)
        check_contents(step.workdir, {"data.path": content_of_data(step.config)}, ["data.path"])
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
        dtypes=["F32"] if adapter else sorted({tensor.dtype for tensor in step.base.tensors.values()}),
        data=data,
        left_out=sum(1 for _ in read_rows(rejects)) if rejects.is_file() else 0,
        results=results,
        no_data=no_data,
        environment=_environment(step.workdir / "environment.json"),
        adapter_of=base_name(path) if adapter else "",
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
    return Results(system.mean, intervals(system.runs), RESAMPLES, system.mean_answers)
