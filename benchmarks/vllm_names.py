"""Every tensor of a folder through the names that vLLM's own source maps it to; vLLM is read, not run.

    pip download --no-deps --only-binary=:all: --dest=downloads vllm
    python -m benchmarks.vllm_names --vllm=downloads/vllm-….whl --model=FOLDER

Each weight must come, by vLLM's renamings, into its vision tower, its decoder or its head, and a part of a stacked
parameter (q, k and v; gate and up) with all the other parts.
"""

import argparse
import ast
import collections
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.names import compact

MODELS = "vllm/model_executor/models"


class Reader(NamedTuple):
    """How vLLM reads a family."""

    files: tuple[str, ...]
    """Sources of its classes."""
    outer: str
    """The class of the whole model."""
    modules: dict[str, str]
    """Places of its weights, and the class that loads each; "" where they are loaded as they are."""


READERS = {
    "qwen2_5_vl": Reader(
        ("qwen2_5_vl.py", "qwen2.py"),
        "Qwen2_5_VLForConditionalGeneration",
        {
            "visual.": "Qwen2_5_VisionTransformer",
            "language_model.model.": "Qwen2Model",
            "language_model.lm_head.": "",
        },
    ),
    "internvl": Reader(
        ("interns1.py", "qwen2.py"),
        "InternS1ForConditionalGeneration",
        {
            "vision_tower.": "",
            "multi_modal_projector.": "",
            "language_model.model.": "Qwen2Model",
            "language_model.lm_head.": "",
        },
    ),
    "internvl_chat": Reader(
        ("internvl.py", "qwen2.py"),
        "InternVLChatModel",
        {"vision_model.": "", "mlp1.": "", "language_model.model.": "Qwen2Model", "language_model.lm_head.": ""},
    ),
}
"""By `model_type`."""


class Mapper(NamedTuple):
    """A `WeightsMapper` of vLLM's source."""

    prefixes: dict[str, str]
    stacked: dict[str, tuple[str, str | int]]

    def rename(self, name: str) -> str:
        """The name with vLLM's prefix: its mapper tries all of them, in order."""
        for prefix, new in self.prefixes.items():
            if name.startswith(prefix):
                name = new + name.removeprefix(prefix)
        return name

    def stack(self, name: str) -> tuple[str, str | int | None]:
        """The parameter that a weight is a part of, and which part."""
        part = None
        for piece, (new, which) in self.stacked.items():
            if piece in name:
                name, part = name.replace(piece, new, 1), which
        return name, part


def read_mappers(source: str) -> dict[str, Mapper]:
    """The mapper of each class that defines one literally."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef):
            continue
        for each in node.body:
            if not (isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "hf_to_vllm_mapper"):
                continue
            if isinstance(each.value, ast.Call):
                given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in each.value.keywords}
                prefixes, stacked = given.pop("orig_to_new_prefix", {}), given.pop("orig_to_new_stacked", {})
                if given:
                    raise SystemExit(f"{node.name} maps by {', '.join(given)} too, which this script does not know")
                found[node.name] = Mapper(prefixes, stacked)
    return found


def main() -> int:
    """The exit status: 1 where a weight has no place, or a stacked parameter lacks a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, required=True, help="a wheel, as pip downloads it")
    parser.add_argument("--model", required=True, help="an exported folder")
    args = parser.parse_args()
    with zipfile.ZipFile(args.vllm) as wheel:
        folder = open_folder(args.model)
        reader = READERS[folder.config["model_type"]]
        sources = [wheel.read(f"{MODELS}/{file}").decode() for file in reader.files]
    mappers = {name: mapper for source in sources for name, mapper in read_mappers(source).items()}
    names, none = list(folder.tensors), Mapper({}, {})
    renamed, parts, homeless = collections.defaultdict(list), collections.defaultdict(set), []
    for name in names:
        outer = mappers.get(reader.outer, none).rename(name)
        module = next((prefix for prefix in reader.modules if outer.startswith(prefix)), None)
        if module is None:
            homeless.append(name)
            continue
        inner = mappers.get(reader.modules[module], none)
        parameter, part = inner.stack(outer)
        renamed[_pattern(name), _pattern(parameter), part].append(name)
        if part is not None:
            parts[parameter].add(part)
    print(f"vLLM {re.search(r'vllm-([^-]+)-', args.vllm.name)[1]}, {len(names):,} tensors of {args.model}")
    for (name, parameter, part), tensors in renamed.items():
        print(f"  {len(tensors):4} × {name} -> {parameter}{f' [{part}]' if part is not None else ''}")
    wanted = collections.defaultdict(set)
    for mapper in mappers.values():
        for new, which in mapper.stacked.values():
            wanted[new.strip(".")].add(which)
    lacking = [parameter for parameter, found in parts.items() if found != wanted[_stacked_in(parameter, wanted)]]
    print(f"without a place in vLLM: {compact(homeless) or 'none'}; stacked in part: {compact(lacking) or 'none'}")
    return int(bool(homeless or lacking))


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+\.", ".{}.", name, count=1)


def _stacked_in(parameter: str, stacked) -> str:
    """The stacked parameter's own name, as the mappers have it: the longest that ends a module's path."""
    module = parameter.rpartition(".")[0]
    return max((name for name in stacked if module.endswith(name)), key=len)


if __name__ == "__main__":
    sys.exit(main())
