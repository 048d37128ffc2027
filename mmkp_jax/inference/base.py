"""The model folder that a run began with: its files' digests, by which it is known again."""

from pathlib import Path

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import Folder, digests, open_folder
from mmkp_jax.runtime.atomic import write_json
from mmkp_jax.runtime.json_files import read_object

BASE = "base.json"
"""The file of a work directory that holds the digests of the base's files when the run began."""

RESTORE_BASE = "restore the base model of the run (config.model.path)"


def open_base(workdir: Path, config: ConfigDict) -> Folder:
    """Opens the model folder that a run started from.

    Raises:
        InputError: it cannot be opened, or its files are not those that the run recorded.
    """
    try:
        folder = open_folder(config.model.path)
    except InputError as error:
        raise InputError(
            f"the model that this run started from, {error.where!r}, cannot be opened ({error.what})",
            str(workdir),
            "run this command in the folder that the run was started in",
        ) from None
    check_base(workdir, folder)
    return folder


def record_base(workdir: Path, base: Folder) -> None:
    """Records the digests of the base's files; if they are recorded already, they must be the same.

    Raises:
        InputError: they differ.
    """
    check_base(workdir, base)
    write_json(workdir / BASE, digests(base))


def check_base(workdir: Path, base: Folder) -> None:
    """Raises `InputError` if the base's files are not those that the run recorded, if it recorded any.

    Frozen tensors are compared number by number when they are exported; here only their names and shapes are checked.
    """
    if not (workdir / BASE).is_file():
        return
    recorded = read_object(workdir / BASE, "restore the file, or remove it to accept the base as it is now")
    before, now = {name: recorded.text(name) for name in recorded.content}, digests(base)
    if changed := [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]:
        what = f"files have changed since the run began: {', '.join(changed)}"
        raise InputError(what, str(base.path), RESTORE_BASE)
