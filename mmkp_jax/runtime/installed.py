"""Whether packages of an extra are installed; imports none of them."""

from collections.abc import Sequence
from importlib.util import find_spec

from mmkp_jax.errors import InputError


def check_installed(packages: Sequence[str], where: str, extras: Sequence[str]) -> None:
    """Refuses what needs packages that are not installed.

    Args:
        where: what asks for them.
        extras: the extra of each package.

    Raises:
        InputError: a package is missing; its extra is named.
    """
    lacking = {package: extra for package, extra in zip(packages, extras, strict=True) if not _is_there(package)}
    if lacking:
        what = f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed"
        extra = ",".join(dict.fromkeys(lacking.values()))
        raise InputError(what, where, f"pip install 'mmkp_jax[{extra}]'")


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # its import is blocked
        return False
