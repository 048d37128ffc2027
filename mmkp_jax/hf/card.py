"""The model card of an exported folder: a README for the hub, with code that runs unchanged."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mmkp_jax import __version__
from mmkp_jax.data.prompts import DATE, user_text
from mmkp_jax.hf.card_code import snippets_of
from mmkp_jax.hf.card_lora import adapters, as_code, frozen
from mmkp_jax.hf.card_results import HEADLINES, Results, results_text, rows_of
from mmkp_jax.hf.card_strategy import STRATEGIES, strategy_rows
from mmkp_jax.hf.card_text import BODY, DATED
from mmkp_jax.models.family import Family
from mmkp_jax.runtime.escape import for_markdown

CARD = "README.md"

FINGERPRINT = 16
"""Digits of a dataset's fingerprint in the card."""

_LINK = re.compile(r"https?://[\w.~%/?=&#:@+-]+|[\w.-]+")
"""A URL, or a file of the folder; anything else in a base's metadata is not linked."""

SOFTWARE = ("jax", "flax", "transformers", "pillow")


class Licence(NamedTuple):
    """A licence, as in the hub's metadata."""

    id: str
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.name or self.id


class Base(NamedTuple):
    """The model that a run started from."""

    name: str
    """Hub id, or name of the folder."""
    on_hub: bool
    licence: Licence


class DatasetFacts(NamedTuple):
    """A dataset that a run read."""

    name: str
    weight: float
    posts: Mapping[str, int]
    """Number of posts by split."""
    fingerprints: Mapping[str, str]


class Environment(NamedTuple):
    """Software and device of a training run."""

    packages: Mapping[str, str] = MappingProxyType({})
    """Versions by package name."""
    device: str = ""


class CardFacts(NamedTuple):
    """Everything that the card reports."""

    repo: str
    """The folder's hub id; empty for a local one."""
    family: Family
    base: Base
    config: Mapping[str, Any]
    """The run's config, from its work directory."""
    step: int
    dtypes: Sequence[str]
    """Dtypes of the exported tensors."""
    data: Sequence[DatasetFacts]
    left_out: int
    """Number of the dataset's training posts that no step used."""
    results: Results | None
    no_data: str
    """Why data and scores are unknown, where they are."""
    environment: Environment
    adapter_of: str = ""
    """Where the base of an adapter is loaded from; empty for a whole model."""


def licence_of(folder: Path) -> Licence:
    """A model folder's licence, from its card's metadata or its LICENSE file; else `unknown`."""
    card, texts = folder / CARD, sorted(file for file in folder.glob("LICENSE*") if file.is_file())
    if card.is_file():
        try:
            metadata = ModelCard.load(card, ignore_metadata_errors=True).data
        except Exception:  # metadata that is no YAML or no mapping: its errors have no common class
            metadata = ModelCardData()
        if isinstance(metadata.license, str) and metadata.license:
            name, link = (
                each if isinstance(each, str) else None for each in (metadata.license_name, metadata.license_link)
            )
            return Licence(metadata.license, name, link)
    if not texts:
        return Licence("unknown")
    with texts[0].open("rb") as opened:
        title = " ".join(opened.read(400).decode("utf-8", errors="replace").lower().split())
    if "apache license version 2.0" in title:
        return Licence("apache-2.0")
    return Licence("other", "qwen-research" if "qwen research" in title else None, texts[0].name)


def card_of(facts: CardFacts) -> str:
    """The text of the card, metadata first."""
    title = facts.repo.rpartition("/")[2] or f"{facts.base.name.rpartition('/')[2]}-{facts.config['strategy']}"
    base = facts.base.name
    parts = {
        "title": _plain(title),
        "base": f"[{base}](https://huggingface.co/{base})" if facts.base.on_hub else as_code(base),
        "strategy": STRATEGIES[facts.config["strategy"]],
        "results": results_text(facts.results),
        **snippets_of(facts.family, facts.config, facts.repo, facts.adapter_of),
        "training": rows_of([("", ""), *_training(facts)]),
        "data": _data(facts),
        "prompt": user_text("{text}"),
        "end": facts.family.reference.end,
        "dated": DATED.format(DATE) if facts.family.reference.is_dated else "",
        **_image_words(facts),
        "text_tokens": f"{facts.config['data']['max_text_tokens']:,}",
        "licence": _licence(facts.base.licence),
        "version": __version__,
    }
    return f"---\n{_metadata(facts, title).to_yaml()}\n---\n\n{BODY.substitute(parts)}"


def _metadata(facts: CardFacts, title: str) -> ModelCardData:
    licence = facts.base.licence
    return ModelCardData(
        base_model=facts.base.name if facts.base.on_hub else None,
        license=licence.id,
        license_name=licence.name,
        license_link=licence.link,
        library_name="peft" if facts.adapter_of else "transformers",
        pipeline_tag=_task(facts),
        tags=["keyphrase-generation", "social-media", "mmkp_jax"],
        model_name=title,
        eval_results=_eval_results(facts) or None,
    )


def _eval_results(facts: CardFacts) -> list[EvalResult]:
    if facts.results is None:
        return []
    name = facts.data[0].name if facts.data else "test posts"
    return [
        EvalResult(
            task_type=_task(facts),
            task_name="Multi-modal keyphrase prediction",
            dataset_type=name,
            dataset_name=name,
            dataset_split="test",
            metric_type="f1",
            metric_name=f"{metric.upper()}, {group} (n = {found['n']:,})",
            metric_value=round(100 * found[metric], 2),
        )
        for group, found in facts.results.scores.items()
        if found is not None
        for metric in HEADLINES
    ]


def _training(facts: CardFacts) -> list[tuple[str, str]]:
    c = facts.config
    length = f"{c['total_steps']:,} steps" if c["total_steps"] else f"{c['num_epochs']:g} epochs"
    packages = facts.environment.packages
    rows = {
        "steps": f"{facts.step:,} (planned: {length})",
        **strategy_rows(c),
        "adapters": adapters(c) or None,
        "frozen": frozen(c),
        "batch": f"{c['global_batch_size']:,} × {c['row']['tokens']:,} tokens of packed posts"
        + (f", {c['posts_per_step']:,} posts a step" if c.get("posts_per_step") else ""),
        "optimizer": f"AdamW, β = ({c['b1']:g}, {c['b2']:g}), ε = {c['eps']:g}, weight decay {c['weight_decay']:g}, "
        f"gradients clipped to norm {c['clip_norm']:g}",
        "learning rate": f"{c['learning_rate']:g} after {c['warmup_steps']:,} steps of warm-up, then a cosine to 0",
        "numbers": f"trained in float32, computed in {c['compute_dtype']}; here {' and '.join(facts.dtypes)}",
        "seed": str(c["seed"]),
        "software": _plain(", ".join(f"{name} {packages[name]}" for name in SOFTWARE if name in packages)),
        "device": _plain(facts.environment.device),
    }
    return [(name, value) for name, value in rows.items() if value]


def _data(facts: CardFacts) -> str:
    if not facts.data:
        return "The dataset was not available when this card was written."
    lines = [("dataset", "split", "posts", "fingerprint")]
    for each in facts.data:
        name = _plain(each.name) if each.weight == 1 else f"{_plain(each.name)}, × {each.weight:g}"
        lines += [
            (name, split, f"{posts:,}", f"`{each.fingerprints[split][:FINGERPRINT]}`")
            for split, posts in each.posts.items()
        ]
    left_out = f"\n\n{facts.left_out:,} training posts were left out." if facts.left_out else ""
    return rows_of(lines) + left_out


def _licence(licence: Licence) -> str:
    if licence.id == "unknown":
        return "The base's files name no licence. Look it up before you use or share these weights."
    where = f" ([text]({licence.link}))" if licence.link and _LINK.fullmatch(licence.link) else ""
    return f"These weights derive from the base's, and its licence holds for them: {_plain(str(licence))}{where}."


def _plain(text: str) -> str:
    """Text of unknown origin as Markdown; a name of only letters, digits and inner punctuation is unchanged."""
    return text if re.fullmatch(r"\w([\w ./-]*\w)?", text) and not text.startswith("_") else for_markdown(text)


def _task(facts: CardFacts) -> str:
    """The hub's name for what the model does."""
    return "image-text-to-text" if facts.family.reference.image_processor else "text-generation"


def _image_words(facts: CardFacts) -> dict[str, str]:
    reference = facts.family.reference
    if not reference.image_processor:
        return {"sources": "its text", "turn": "In one user's turn:", "images": "The model takes no images."}
    settings = {name: f"{value:,}" for name, value in facts.config["data"]["images"].items()}
    return {
        "sources": "its text and its image",
        "turn": "The image comes first, then, in one user's turn:",
        "images": f"{reference.images.format(**settings)};\ntransparent parts become white.",
    }
