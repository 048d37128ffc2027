"""A config's programs, compiled in a separate process for machines that are not here.

The compilers for TPUs and for GPUs interfere with each other, and both are set up by environment variables.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mmkp_jax.data.forest import RowSize
from mmkp_jax.errors import InputError
from mmkp_jax.planning.compile_worker import DOING, REQUEST, RESULT
from mmkp_jax.planning.hlo import Program, parse_hlo
from mmkp_jax.planning.topologies import Topology
from mmkp_jax.runtime.progress import Waiting

COMPILERS = {
    "tpu": (("libtpu",), ("tpu",)),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), ("cuda12", "cuda13")),
}
"""For each platform: modules, any of which is its compiler, and the extras that install them."""

XLA_FLAGS = "XLA_FLAGS"

ENVIRONMENT = {
    "cpu": {XLA_FLAGS: "--xla_force_host_platform_device_count={chips}"},
    "tpu": {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_MIN_LOG_LEVEL": "3"},
    "gpu": {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", XLA_FLAGS: "--xla_gpu_autotune_level=0"},
}


class Compiled(NamedTuple):
    """A program that compiled; sizes are bytes a chip."""

    arguments: float
    temporaries: float
    """The most that is alive at once, not counting the arguments."""
    results: float
    """Results that do not reuse the memory of arguments."""
    code: float
    seconds: float
    """Seconds to compile."""
    program: Program
    fallback: bool = False
    """Whether it was compiled without Triton's matrix products, unlike the program that a GPU runs."""

    @property
    def bytes(self) -> float:
        """Total bytes."""
        return self.arguments + self.temporaries + self.results + self.code


SECONDS_BETWEEN_LOOKS = 0.2
"""How often the compiling process is looked at."""


class NotCompiled(NamedTuple):
    """A program that did not compile, mostly because it needs too much memory."""

    reason: str


class CompileOutcome(NamedTuple):
    """The outcome of compiling a config."""

    state: Mapping[str, float]
    """Bytes of a chip's memory: trainable and frozen parameters, and the optimizer's state."""
    in_host: float
    """Bytes of its host's memory that a chip's part of the state takes."""
    mesh: Mapping[str, int]
    programs: Mapping[str, Compiled | NotCompiled]
    """train, and if requested prefill, decode and (if the cache ever grows) growth."""

    def needs(self, name: str) -> float:
        """Bytes a chip while a compiled program runs; evaluation keeps the optimizer's state in memory."""
        return self.programs[name].bytes + self.state["optimizer"] * (name != "train")


def check_compiler(topology: Topology) -> None:
    """Raises InputError, with the extra to install, where a topology's compiler is not installed."""
    modules, extras = COMPILERS.get(topology.chip.platform, ((), ()))
    if modules and not any(map(importlib.util.find_spec, modules)):
        what = f"the compiler for {topology.chip.name} is not installed ({' or '.join(modules)})"
        raise InputError(what, f"--topology={topology.name}", f"pip install -e '.[{extras[0]}]'")


def compile_config(
    config: ConfigDict, published: Mapping[str, Any], where: str, topology: Topology, prompt: RowSize | None = None
) -> CompileOutcome:
    """Compiles a config's train step and, for prompts of a size, prefill, decode and growth of the cache.

    Args:
        published: the model's `config.json`, read at `where`.
        prompt: the size of a prompt's row; None leaves decoding out.

    Raises:
        InputError: the compiler is not installed, or the config cannot be used on this topology.
    """
    check_compiler(topology)
    request = {
        "config": config.to_dict(),
        "published": published,
        "where": where,
        "topology": topology.name,
        "prompt": vars(prompt) if prompt else None,
    }
    with tempfile.TemporaryDirectory(prefix="mmkp_plan_") as name:
        folder = Path(name)
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        environment = {"JAX_PLATFORMS": "cpu", **ENVIRONMENT[topology.chip.platform]}
        environment = {name: text.format(chips=topology.chips) for name, text in environment.items()}
        if XLA_FLAGS in environment:  # next to those of the user, with which a run would be compiled too
            environment[XLA_FLAGS] = f"{os.environ.get(XLA_FLAGS, '')} {environment[XLA_FLAGS]}".strip()
        result = _run_child(folder, environment, topology.name)
        if "error" in result:
            raise InputError(*result["error"])
        programs = {name: _outcome(each, folder / f"{name}.hlo") for name, each in result["programs"].items()}
    return CompileOutcome(result["state"], result["in_host"], result["mesh"], programs)


def _run_child(folder: Path, environment: Mapping[str, str], topology: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "mmkp_jax.planning.compile_worker", str(folder)]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    with (folder / "stderr").open("w+b") as errors, Waiting(f"compiling for {topology}") as waiting:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            while child.poll() is None:
                doing = folder / DOING
                waiting.show(doing.read_text(encoding="utf-8") if doing.exists() else "shapes")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(SECONDS_BETWEEN_LOOKS)
        finally:
            child.kill()
            child.wait()
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    if child.returncode < 0:
        what = f"the compiling process was killed by signal {-child.returncode}"
        raise InputError(what, "plan", "give it more memory, or smaller rows")
    if child.returncode:
        raise RuntimeError(f"the compiling process failed:\n{text[-4000:]}")
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def _outcome(result: Mapping[str, Any], text: Path) -> Compiled | NotCompiled:
    if "refused" in result:
        return NotCompiled(result["refused"])
    return Compiled(
        arguments=result["argument"],
        temporaries=result["temp"],
        results=result["output"] - result["alias"],
        code=result["generated_code"],
        seconds=result["seconds"],
        program=parse_hlo(text.read_text(encoding="utf-8")),
        fallback=result["fallback"],
    )
