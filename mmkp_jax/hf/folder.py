"""A Hugging Face model folder: its config, its tokenizer, and the location of each tensor. Never a pickle."""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import family_of
from mmkp_jax.hf.names import published_name, source_of
from mmkp_jax.hf.preprocessor import check_preprocessor
from mmkp_jax.hf.tensors import AGAIN, DTYPES, Tensor, find_files, header_of, is_there, reason_of, same_numbers
from mmkp_jax.models.family import Family
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.runtime.json_files import Fields, is_integer, read_object
from mmkp_jax.runtime.lines import read_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = "config.json"
GENERATION = "generation_config.json"
ADAPTER = "adapter_config.json"
TIED = "tie_word_embeddings"
"""The key of a `config.json` that says whether the head is the embedding."""

FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.py", "README.md", "LICENSE*")
"""Files that are downloaded from the hub. Code of a folder is never run: an export has it for other programs."""

_VOCABULARY = ("vocab.json", "merges.txt")

_TOKENIZER_AGAIN = "copy the tokenizer's files from the base checkpoint"


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder with a readable config, a tokenizer and complete safetensors files."""

    path: Path
    config: dict[str, Any]
    """Content of the `config.json`; with `tie_word_embeddings` as the files have it, where it leaves that to them."""
    tensors: dict[str, Tensor]
    """Tensors by their name in the file."""

    @property
    def config_file(self) -> str:
        """The `config.json`, for messages."""
        return str(self.path / CONFIG)

    @functools.cached_property
    def family(self) -> Family:
        """The family of the model."""
        return family_of(self.config, self.config_file)

    @functools.cached_property
    def model_config(self) -> Any:
        """The family's config of the model."""
        return self.family.read_config(self.config, self.config_file)


def open_folder(path: str) -> Folder:
    """Opens a local folder or, where there is none, fetches the hub's `owner/name`.

    Only headers are read, and two tensors where `tie_word_embeddings` says that they are one. Every command opens a
    model's folder here, so that all commands refuse the same things that are not implemented.

    Raises:
        InputError: the folder is not available; something in it is missing, damaged, contradictory, or asks for what is
            not implemented.
    """
    local = _locate(path)
    if is_there(local / ADAPTER) and not is_there(local / CONFIG):
        base = read_object(local / ADAPTER, AGAIN).text("base_model_name_or_path", "") or "another model"
        what = f"this is not a model, but an adapter (PEFT) of {for_terminal(base)}"
        hint = "give that as the model, and this folder as predict --adapter, or as config.lora_adapter to train on"
        raise InputError(what, str(local), hint)
    if not is_there(local / CONFIG):
        raise InputError(f"the folder has no {CONFIG}", str(local), "give the folder of a Hugging Face checkpoint")
    if is_there(local / ADAPTER):
        what = "the folder holds an adapter, which transformers would add to the weights"
        raise InputError(what, str(local / ADAPTER), "merge it into the weights first, or remove its files")
    config = read_config(local / CONFIG)
    if is_there(local / GENERATION):
        read_object(local / GENERATION, AGAIN)  # other programs read it, in an export too
    if not is_there(local / "tokenizer.json") and not all(is_there(local / name) for name in _VOCABULARY):
        raise InputError(
            "the folder has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt",
            str(local),
            _TOKENIZER_AGAIN,
        )
    folder = Folder(local, config, find_files(local))
    if folder.model_config.tie_embeddings is None:
        names = folder.family.names
        heads = {source_of(path, names).name for path in names.tied}
        config[TIED] = heads.isdisjoint(published_name(name, names) for name in folder.tensors)
        return Folder(local, config, folder.tensors)
    _check_tied(folder)
    return folder


def read_config(file: Path) -> dict[str, Any]:
    """The `config.json` of a model folder, whose preprocessor, where it has one, agrees with it.

    Raises:
        InputError: it cannot be read, or it or the preprocessor asks for what is not implemented.
    """
    config = dict(read_object(file, AGAIN).content)
    family = family_of(config, str(file))
    check_preprocessor(file.parent, family, family.read_config(config, str(file)))
    return config


def _check_tied(folder: Folder) -> None:
    """Refuses a head in the files that is not the embedding, where the config says that they are one.

    transformers uses such a head, with a warning; vLLM ignores it.
    """
    if not folder.model_config.tie_embeddings:
        return
    names = folder.family.names
    found = {published_name(name, names): tensor for name, tensor in folder.tensors.items()}
    for tied in names.tied.items():
        head, embedding = (found.get(source_of(path, names).name) for path in tied)
        if head is None or embedding is None or embedding.dtype not in DTYPES:  # reported on loading
            continue
        if head.dtype not in DTYPES or not same_numbers(head, embedding):
            raise InputError(
                f"{CONFIG} says {TIED}, and {head.name} is not {embedding.name}",
                str(head.file),
                f"set {TIED} to false in {CONFIG} if the model is to use it, else remove it from the file",
            )


def stop_tokens(folder: Folder, end_token: int) -> frozenset[int]:
    """The tokens that end a completion: those of `generation_config.json`, else of `config.json`, and `end_token`.

    Raises:
        InputError: the file cannot be read, or names something that is no token.
    """
    found: Any = None
    fields = Fields(folder.config, folder.config_file, AGAIN)
    parts = [fields] if fields.content.get("text_config") is None else [fields, fields.object("text_config")]
    if is_there(folder.path / GENERATION):
        parts.insert(0, read_object(folder.path / GENERATION, AGAIN))
    for part in parts:
        found = part.content.get("eos_token_id")
        if found is None:
            continue
        tokens = found if isinstance(found, list) else [found]
        if not all(is_integer(token) and token >= 0 for token in tokens):
            part.refuse("eos_token_id", "a token number, or a list of them")
        return frozenset([*tokens, end_token])
    return frozenset([end_token])


def digests(folder: Folder) -> dict[str, str]:
    """SHA-256 of each file that determines the model, by name; for a file of tensors, of its header only.

    Raises:
        InputError: one of them cannot be read.
    """
    named = {file.name: file for pattern in FETCHED for file in folder.path.glob(pattern) if file.is_file()}
    deciding = {name: file for name, file in sorted(named.items()) if not name.startswith(("README", "LICENSE"))}
    return {name: hashlib.sha256(_deciding(file)).hexdigest() for name, file in deciding.items()}


def _deciding(file: Path) -> bytes:
    if file.suffix != ".safetensors":
        return read_bytes(file)
    try:
        return header_of(file)
    except OSError as error:
        raise InputError(f"the file cannot be read ({reason_of(error)})", str(file), "check its permissions") from None


def load_tokenizer(folder: Folder) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer, as transformers reads it; no code from the folder is run.

    Raises:
        InputError: transformers cannot read it, or it has tokens without an embedding in the model.
    """
    from transformers import AutoTokenizer  # here, as it takes a second to import

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
        tokenizer("a")  # values of a wrong type may fail only here
        spared = folder.family.unembedded
        last = max((number for token, number in tokenizer.get_vocab().items() if token not in spared), default=0)
    except BaseException as error:  # tokenizers raises a bare Exception for a damaged file, or panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"transformers cannot read the tokenizer ({reason_of(error)})", str(folder.path), _TOKENIZER_AGAIN
        ) from None
    rows = folder.family.embedding_rows(folder.model_config)
    if last >= rows:
        what = f"the tokenizer has a token {last:,}, and vocab_size is {rows:,}"
        raise InputError(what, str(folder.path), "take tokenizer and config.json from one checkpoint")
    return tokenizer


def _locate(path: str) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise InputError("this is a file, not a folder", path, "give the folder that holds config.json")
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", path):
        raise InputError(
            "there is no such folder",
            path,
            "give a local folder or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=list(FETCHED)))
    except Exception as error:  # the network's, the hub's and the disk's failures have no common class
        raise InputError(
            f"there is no such folder, and the hub does not provide it ({reason_of(error)})",
            path,
            "check the name, the network and, for a gated model, HF_TOKEN; or give a local folder",
        ) from None
