"""Embeddings of phrases by a Hugging Face folder, with PyTorch (extra `semantic`).

A folder of sentence-transformers says how tokens' states become one vector: `modules.json` lists its modules, the
pooling's own folder has the mode. Without these files, the mean over the tokens is taken.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.semantic import Embed
from mmkp_jax.runtime.json_files import Fields, parse, read_object
from mmkp_jax.runtime.lines import read_text

BATCH = 256
"""Phrases that are embedded at a time."""

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Files of which a folder with a tokenizer has one; without, transformers makes one that knows no word."""

UNUSED = "pooler."
"""Beginning of the names of weights that an embedding does not use, and that many folders lack."""

POOLINGS = ("mean", "cls")
"""Mean over a phrase's tokens, or its first token's state."""

_HINT = "give the folder of a sentence-transformers model, or leave out --embeddings"


def load_embedding(folder: Path) -> Embed:
    """The embedding of a folder's model; on a GPU if PyTorch sees one.

    Raises:
        InputError: PyTorch is not installed, or the folder has no whole model that can be used so. The embedding, too,
            raises it where the model fails at texts, or gives numbers that are not finite.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "embeddings need PyTorch", "--embeddings", "pip install 'mmkp_jax[semantic]', or leave out the flag"
        )
    if not (folder / "config.json").is_file():
        raise InputError("there is no model here: no config.json", str(folder), _HINT)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise InputError(f"there is no tokenizer here: none of {', '.join(TOKENIZERS)}", str(folder), _HINT)
    _refuse_prompts(folder / "config_sentence_transformers.json")
    return _loaded(folder, _pooling(folder), _most_tokens(folder))


def _loaded(folder: Path, pooling: str, most_tokens: int | None) -> Embed:
    import torch
    from transformers import AutoModel, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def vectors(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # little padding
        rows = []
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                some = [texts[number] for number in order[start : start + BATCH]]
                inputs = tokenizer(
                    some, padding=True, truncation=longest is not None, max_length=longest, return_tensors="pt"
                ).to(device)
                states_BTE = model(**inputs).last_hidden_state.float()
                kept_BT1 = inputs["attention_mask"][..., None]
                mean_BE = (states_BTE * kept_BT1).sum(1) / kept_BT1.sum(1).clamp(min=1)
                rows.append((mean_BE if pooling == "mean" else states_BTE[:, 0]).cpu().numpy())
        found = np.concatenate(rows)
        return found[np.argsort(order)]

    def embed(texts: Sequence[str]) -> np.ndarray:
        try:
            found = vectors(texts)
        except Exception as error:
            raise _unusable(error, folder) from None
        if not np.isfinite(found).all():
            raise InputError("its model gives numbers that are not finite", str(folder), _HINT)
        return found

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
        model, loading = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files, and models without such states, raise errors of many classes
        raise _unusable(error, folder) from None
    if lacking := sorted(name for name in loading["missing_keys"] if not name.startswith(UNUSED)):
        raise InputError(f"its weights lack {len(lacking):,} tensors, such as {lacking[0]}", str(folder), _HINT)
    longest = min(filter(None, (most_tokens, _positions(model))), default=None)
    model = model.to(device).eval()
    embed(["a"])
    return embed


def _positions(model: Any) -> int | None:
    """The most tokens that a model has positions for; None where it does not say.

    Models of RoBERTa's kind count theirs from behind the padding's index.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    return most and most - 1 - getattr(getattr(model, "embeddings", None), "padding_idx", -1)


def _unusable(error: Exception, folder: Path) -> InputError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return InputError(f"its model cannot be used ({reason[:200]})", str(folder), _HINT)


def _pooling(folder: Path) -> str:
    """One of `POOLINGS`."""
    file, pooling = folder / "modules.json", "mean"
    if not file.is_file():
        return pooling
    listed = Fields({"modules": parse(read_text(file, _HINT), str(file), _HINT)}, str(file), _HINT)
    for module in listed.rows("modules"):
        kind = module.text("type").rpartition(".")[2]
        if kind == "Pooling":
            pooling = _mode(folder / module.text("path") / "config.json")
        elif kind not in ("Transformer", "Normalize"):  # a cosine does not depend on lengths
            module.refuse("type", "a Transformer, Pooling or Normalize")
    return pooling


def _mode(file: Path) -> str:
    config = read_object(file, _HINT)
    if "pooling_mode" in config.content:
        modes = [config.text("pooling_mode")]
    else:
        modes = [name for name, value in config.content.items() if name.startswith("pooling_mode_") and value is True]
    named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    found = [named.get(mode, mode) for mode in modes]
    if len(found) != 1 or found[0] not in POOLINGS:
        what = f"its pooling is {', '.join(map(repr, found)) or 'none'}, not one of {', '.join(POOLINGS)}"
        raise InputError(what, str(file), _HINT)
    return found[0]


def _refuse_prompts(file: Path) -> None:
    if file.is_file() and (name := read_object(file, _HINT).content.get("default_prompt_name")):
        raise InputError(f"it puts the prompt {name!r} before each text, which is not implemented", str(file), _HINT)


def _most_tokens(folder: Path) -> int | None:
    """Tokens after which a text is cut off (`sentence_bert_config.json`); None if the folder does not say."""
    file = folder / "sentence_bert_config.json"
    if not file.is_file() or read_object(file, _HINT).content.get("max_seq_length") is None:
        return None
    return read_object(file, _HINT).integer("max_seq_length", least=3)  # a word and two ends
