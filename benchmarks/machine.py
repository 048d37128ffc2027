"""The machine and versions that a figure was measured on."""

import os
import platform
import subprocess
from pathlib import Path

import jax


def describe_machine() -> str:
    """Device, cores, versions and revision, in one line."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = _cpu_name() if device.platform == "cpu" else f"{jax.device_count()} x {device.device_kind}"
    return f"{name}, {cores} cores, Python {platform.python_version()}, jax {jax.__version__}, revision {_revision()}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _revision() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        shown = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return "unknown"
    return shown.stdout.strip() or "unknown"
