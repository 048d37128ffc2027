"""Plans a config's memory and time on other machines: `python -m mmkp_jax.plan --config=FILE --topology=v5e:4x4`."""

import argparse
import sys
from collections.abc import Sequence

from mmkp_jax.families import known
from mmkp_jax.planning.topologies import read_topology
from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.config import read_config
from mmkp_jax.runtime.interrupts import while_loading

EPILOG = (
    "Topologies are chips and how they are joined: v5e:4x4, v6e:2x4, v5p:2x2x4, h100:8, h200:8, a100:8, l4:1, "
    "rtx4090:1; *N for N slices or machines: v5e:16x16*2, h100:8*4; cpu:8 for eight devices on this machine. Several, "
    "separated by commas, make a line each. "
    "The TPU compiler comes with the extra tpu, that of GPUs with cuda12."
)


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("plan", __doc__, epilog=EPILOG)
    add = flags.add_argument
    add(
        "--config", metavar="FILE|NAME[:preset,…]", help="required: an experiment; --config.key=value overrides a field"
    )
    add("--topology", metavar="NAME[,NAME…]", help="required: the machines to compile for")
    add("--price", type=_price, metavar="F", help="dollars a chip-hour; adds the cost of the experiment")
    return flags


def run(arguments: Sequence[str] | None = None) -> None:
    """Prints the plan that the flags ask for."""
    flags, overrides = _parse(arguments)
    topologies = [read_topology(name) for name in flags.topology.split(",")]
    config = read_config(flags.config, overrides, known.fields())
    with while_loading():  # seconds of imports that a wrong flag does not need
        from mmkp_jax.planning.compiling import check_compiler
        from mmkp_jax.planning.plan import plan, plan_line
        from mmkp_jax.planning.text import markdown_table
        from mmkp_jax.planning.workload import workload_of

    for topology in topologies:  # before the work, not after it
        check_compiler(topology)
    workload = workload_of(config)
    if len(topologies) == 1:
        print(plan(workload, topologies[0], flags.price))
    else:
        print(markdown_table([plan_line(workload, topology, flags.price) for topology in topologies]))
        print(f"\n{workload.updates}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 after a one-line error."""
    return status_of(run, arguments)


def _price(text: str) -> float:
    price = float(text)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price")
    return price


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and those that override fields of the config."""
    flags = parser()
    parsed, overrides = flags.parse_with_overrides(arguments)
    for name in ("config", "topology"):
        if not getattr(parsed, name):
            flags.error(f"--{name} is not given")
    return parsed, overrides


if __name__ == "__main__":
    sys.exit(main())
