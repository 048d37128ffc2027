"""The code of a model card: what its folder, or its adapter, needs in transformers and in vLLM."""

import itertools
import json
import textwrap
from collections.abc import Mapping
from string import Template
from typing import Any

from mmkp_jax.data.prompts import DATE, user_text
from mmkp_jax.hf.card_lora import CONNECTOR, NOT_SERVED, adapter_code, beyond_decoder, not_served
from mmkp_jax.hf.card_text import (
    EXAMPLE,
    NEEDS,
    PARTS,
    PROCESSOR,
    READ,
    READING,
    SEE,
    TRANSFORMERS,
    VLLM,
    VLLM_OPTIONS,
    VLLM_PARTS,
)
from mmkp_jax.hf.preprocessor import named_settings
from mmkp_jax.models.family import Family, Reference


def snippets_of(family: Family, config: Mapping[str, Any], repo: str, adapter_of: str) -> dict[str, str]:
    """Code for transformers and vLLM (or why that cannot serve this), and what it needs.

    Args:
        config: the run's config.
        repo: the folder's hub id; empty for a local one.
        adapter_of: where the base of an adapter is loaded from; empty for a whole model.
    """
    settings, general = _settings(family, config, repo, adapter_of), (NEEDS, TRANSFORMERS.template, VLLM.template)
    needs, transformers, vllm = family.reference.snippets or general
    notes = [family.reference.vllm_note] if family.reference.vllm_note else []
    if adapter_of:
        needs = needs.replace("Needs ", "Needs `peft>=0.21`, ", 1)
        why = not_served(config["lora_rank"], config["lora_projector"], family)
        vllm = NOT_SERVED.format(why) if why else vllm
        notes += [CONNECTOR] if not why and beyond_decoder(config, family) else []
    return {
        "needs": needs,
        "transformers": Template(transformers).substitute(settings),
        "vllm": Template(vllm).substitute(settings),
        "vllm_note": "".join(f"{note}\n\n" for note in notes),
    }


def _settings(family: Family, config: Mapping[str, Any], repo: str, adapter_of: str) -> dict[str, str]:
    post = {"prompt": repr(user_text("{}")), "text_tokens": str(config["data"]["max_text_tokens"])}
    reference = family.reference
    return {
        "model": reference.model,
        "extra": textwrap.indent(reference.extra, " " * 4),
        "template": f", date_string={DATE!r}" if reference.is_dated else "",
        "vllm_template": f", chat_template_kwargs={{'date_string': {DATE!r}}}" if reference.is_dated else "",
        "adjusting": reference.adjusting,
        **(_with_images(family, config, adapter_of) if reference.image_processor else _without_images(reference)),
        "folder": json.dumps(adapter_of or repo or "."),
        **adapter_code(adapter_of, repo or ".", config, family),
        "reading": READING.substitute(post | {"read": READ if reference.image_processor else ""}),
        "answer_tokens": str(config["answer_tokens"]),
    }


def _with_images(family: Family, config: Mapping[str, Any], adapter_of: str) -> dict[str, str]:
    reference, images = family.reference, config["data"]["images"]
    settings = named_settings(family, images) if adapter_of else {}  # a model's folder has them itself
    return {
        **{name: str(value) for name, value in images.items()},
        "classes": f"AutoTokenizer, {reference.model}, {reference.image_processor}",
        "processor": PROCESSOR.format(reference.image_processor, _options(settings, ", {}={!r}")),
        "content": PARTS,
        "see": SEE.format(options=_options(reference.options, "{}={!r}, ")),
        "expand": f"    if image is not None:\n{textwrap.indent(reference.expand, ' ' * 8)}",
        "example": EXAMPLE,
        "options": VLLM_OPTIONS,
        "vllm_content": VLLM_PARTS,
    }


def _options(options: Mapping[str, Any], form: str) -> str:
    return "".join(itertools.starmap(form.format, options.items()))


def _without_images(reference: Reference) -> dict[str, str]:
    empty = dict.fromkeys(("processor", "see", "expand", "example", "options"), "")
    content, vllm = "PROMPT.format(cut(text))", 'PROMPT.format(cut("the eras tour was everything"))'
    return {"classes": f"AutoTokenizer, {reference.model}", "content": content, "vllm_content": vllm, **empty}
