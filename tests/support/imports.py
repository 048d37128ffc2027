"""What a command imports, seen in a process of its own."""

import subprocess
import sys

from tests.support.paths import ROOT

ACCELERATED = ("jax", "flax", "torch", "transformers", "tensorflow")


def accelerated_imports(module: str, flags: list[str], more: str = "") -> str:
    """The list of `ACCELERATED` that a successful command has imported, as printed; fails where the command does.

    Args:
        module: of the command, with its `main`.
        more: further modules to import, separated by commas.
    """
    code = (
        f"import sys{more and ', '}{more}; from {module} import main\n"
        f"assert main({flags!r}) == 0\n"
        f"print([name for name in {ACCELERATED!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.splitlines()[-1]
