"""The machine and versions that a figure was measured on."""

import os
import platform
import subprocess
from pathlib import Path

import jax

VECTORS = {"avx512_bf16": "AVX-512 with bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
"""Vector instructions by flag, the widest first: a product, and its rounding, depend on them."""


def describe_machine() -> str:
    """Device, cores, versions and revision, in one line."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = _cpu_name() if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}"
    return f"{name}, {cores} cores, Python {platform.python_version()}, jax {jax.__version__}, revision {_revision()}"


def _cpu_name() -> str:
    """The name, and what tells processors of one name apart: family, model, widest vectors."""
    info = Path("/proc/cpuinfo")
    pairs = (line.partition(":") for line in info.read_text().splitlines()) if info.exists() else ()
    facts: dict[str, str] = {}
    for key, _, value in pairs:
        facts.setdefault(key.strip(), value.strip())
    if "model name" not in facts:
        return platform.machine()
    flags = facts.get("flags", "").split()
    widest = next((name for flag, name in VECTORS.items() if flag in flags), "")
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return f"{facts['model name']} ({', '.join(filter(None, [*numbers, widest]))})"


def _revision() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        shown = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return "unknown"
    return shown.stdout.strip() or "unknown"
