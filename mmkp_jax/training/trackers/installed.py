"""Whether the trackers that a config names are installed; imports none of them."""

from collections.abc import Sequence
from importlib.util import find_spec

from mmkp_jax.errors import InputError


def check_installed(names: Sequence[str]) -> None:
    """Refuses trackers that are not installed.

    Raises:
        InputError: a package is missing; its extra is named.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        what = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        raise InputError(what, "config.report_to", f"pip install 'mmkp_jax[{','.join(missing)}]', or leave it out")
