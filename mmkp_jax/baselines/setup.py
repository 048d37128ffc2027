"""A baseline's posts, vocabulary, sizes and predictor, as its config says."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mmkp_jax.baselines.batches import Limits, pairs_of, source_of
from mmkp_jax.baselines.fit import Data
from mmkp_jax.baselines.model import Sizes
from mmkp_jax.baselines.predictor import KeyphrasePredictor
from mmkp_jax.baselines.sidecars import RegionFiles, Regions, Sidecars, WordLines
from mmkp_jax.baselines.vocabulary import Vocabulary, make_vocabulary
from mmkp_jax.data.numbered import each_of
from mmkp_jax.data.posts import text_of
from mmkp_jax.data.records import Split, open_split, rejected_posts, split_names
from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import CONFIG
from mmkp_jax.models.definition import Params

TRAIN, VALID = "train", "valid"


class Posts(NamedTuple):
    """A dataset's splits."""

    splits: Mapping[str, Split]
    rejected: Mapping[str, list[str]]
    """Ids of the posts of each split that could not be prepared."""


def open_posts(config: ConfigDict) -> Posts:
    """The splits of `data.path`.

    Raises:
        InputError: there is no such dataset, or it has no post to train on.
    """
    path = config.data.path
    if not path:
        raise InputError("it is empty", "config.data.path", "give a prepared dataset")
    names = split_names(path)
    rejected = {name: [post.id for post in rejected_posts(path, name)] for name in names}
    posts = Posts({name: open_split(path, name) for name in names}, rejected)
    if not len(open_split(path, TRAIN)):
        raise InputError("its train split has no posts", path, "give another dataset")
    return posts


def sidecars_of(config: ConfigDict, posts: Posts | None, tower: Callable[[str], Regions]) -> Sidecars:
    """What accompanies the posts, checked against them where they are given.

    Args:
        tower: regions that a model's vision tower computes, of the model's folder.

    Raises:
        InputError: a file cannot be read, or is not of these posts.
    """
    if config.strategy != "cmkp":
        return Sidecars()
    ocr = WordLines(config.data.ocr, "data.ocr") if config.data.ocr else None
    attributes = WordLines(config.data.attributes, "data.attributes") if config.data.attributes else None
    regions = None
    if folder := config.data.image_features:
        if not Path(folder).is_dir():
            hint = "name another config.data.image_features; a run's is found where the run was started"
            raise InputError("there is no such folder", folder, hint)
        is_model = (Path(folder) / CONFIG).is_file()
        regions = tower(folder) if is_model else RegionFiles(folder, sorted(f.stem for f in Path(folder).glob("*.npy")))
    sidecars = Sidecars(ocr, attributes, regions)
    if posts and (ocr or attributes):
        ids = {name: [record.id for record in each_of(split)] for name, split in posts.splits.items()}
        sidecars.check({name: [*each, *posts.rejected[name]] for name, each in ids.items()})
    return sidecars


def fuses(config: ConfigDict) -> bool:
    """Whether there is something to fuse with the text."""
    return bool(config.data.image_features or config.data.attributes)


def limits_of(config: ConfigDict) -> Limits:
    """How much of a post is read and said."""
    return Limits(config.text_words, config.keyphrase_words)


def data_of(config: ConfigDict, posts: Posts, sidecars: Sidecars) -> tuple[Vocabulary, Data]:
    """The vocabulary, and the pairs of train and valid (which has none without evaluations)."""
    train = list(map(text_of, each_of(posts.splits[TRAIN])))
    of_images = [lines.words(post.id) for lines in (sidecars.ocr, sidecars.attributes) if lines for post in train]
    vocabulary, limits = make_vocabulary(train, of_images, config.vocabulary), limits_of(config)
    names = [TRAIN, *([VALID] if config.eval_every and VALID in posts.splits else [])]
    sources = {
        name: [source_of(each, vocabulary, sidecars, limits) for each in each_of(posts.splits[name])] for name in names
    }
    pairs = {name: pairs_of(each, vocabulary, limits) for name, each in sources.items()}
    valid = sources.get(VALID, []), pairs.get(VALID, [])
    return vocabulary, Data(sources[TRAIN], pairs[TRAIN], *valid, sidecars.regions, limits)


def sizes_of(config: ConfigDict, vocabulary: Vocabulary, sidecars: Sidecars) -> Sizes:
    """The model's sizes."""
    classifies = config.strategy == "cmkp"
    return Sizes(
        len(vocabulary.words),
        len(vocabulary.keyphrases) if classifies else 0,
        region_width=sidecars.regions.shape[1] if sidecars.regions else 0,
        attributes=sidecars.attributes is not None,
        fusion=config.fusion,
        joint=classifies and config.joint_epochs > 0,
        embedding=config.embedding_width,
        hidden=config.hidden_width,
        dropout=config.dropout,
    )


def class_words_of(config: ConfigDict, vocabulary: Vocabulary) -> np.ndarray:
    """The words of the classifier's keyphrases, [keyphrases, words]."""
    return vocabulary.keyphrase_words(config.keyphrase_words)


def predictor_of(
    config: ConfigDict,
    sizes: Sizes,
    vocabulary: Vocabulary,
    sidecars: Sidecars,
    params: Params,
    *,
    joint: bool = False,
    batch_size: int | None = None,
) -> KeyphrasePredictor:
    """The predictor of a run.

    Args:
        batch_size: posts decoded at a time; None for the config's.
    """
    return KeyphrasePredictor(
        sizes,
        params,
        vocabulary,
        sidecars,
        limits_of(config),
        joint=joint,
        answers=config.answers if sizes.classes else "decoder",
        beams=config.beam_size,
        most=config.most_predicted,
        batch_size=batch_size or config.eval_batch_size,
    )
