"""Fake CPU devices for the processes that tests start."""

import os


def fake_devices(count: int) -> dict[str, str]:
    """The environment of a process that sees so many CPU devices, and compiles as this one does.

    Several devices have threads of their own, whatever the cores: with as many threads as devices, XLA of JAX 0.12
    can wait forever in two collectives at once.
    """
    threads = {"NPROC": str(4 * count)} if count > 1 else {}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip(), **threads}
