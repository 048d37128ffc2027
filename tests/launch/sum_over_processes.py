"""A small program with the flags of main: the processes meet, sum over all of them, and save at the first start."""

import argparse
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

flags = argparse.ArgumentParser()
flags.add_argument("-m")
flags.add_argument("--config")
flags.add_argument("--workdir", type=Path)
flags.add_argument("--coordinator")
flags.add_argument("--num_processes", type=int)
flags.add_argument("--process_id", type=int)
asked = flags.parse_args()

jax.distributed.initialize(asked.coordinator, asked.num_processes, asked.process_id)
total = multihost_utils.process_allgather(np.array([jax.process_index() + 1.0])).sum()
saved = (asked.workdir / "saved").exists()
multihost_utils.sync_global_devices("all have looked")
if jax.process_index() == 0:
    (asked.workdir / ("result" if saved else "saved")).write_text(f"{total} of {jax.process_count()}")
jax.distributed.shutdown()
raise SystemExit(0 if saved else 75)
