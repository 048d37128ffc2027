"""Fake CPU devices for the processes that tests start."""

import os


def fake_devices(count: int) -> dict[str, str]:
    """The environment of a process that sees so many CPU devices, and compiles as this one does."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}
