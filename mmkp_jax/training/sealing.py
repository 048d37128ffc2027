"""Checksums in Orbax's finalization: they are written before the checkpoint's folder gets its final name."""

import asyncio
import time
from pathlib import Path

import orbax.checkpoint as ocp

from mmkp_jax.runtime.checksums import write_checksums

METADATA = "_CHECKPOINT_METADATA"
UNFINISHED = ocp.path.atomicity.TMP_DIR_SUFFIX


class ChecksummedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The temporary path of a step's folder; a kill at any moment leaves it without its final name, or with checksums.

    Orbax uses this for the parts of a step too, which are inside its folder and need no checksums of their own.
    """

    async def finalize(self) -> None:
        """Writes Orbax's final metadata, then the checksums of all files, and renames the folder.

        The first host calls this once every host has written its files.
        """
        if UNFINISHED in self.get_final().parent.name:
            await super().finalize()
        else:
            await asyncio.to_thread(self._seal)

    def _seal(self) -> None:
        folder, store = Path(self.get()), self._checkpoint_metadata_store
        if store is not None:
            store.wait_until_finished()
            store.update(file_path=self.get() / METADATA, commit_timestamp_nsecs=time.time_ns())
            store.wait_until_finished()
        write_checksums(folder)
        folder.rename(self.get_final())
