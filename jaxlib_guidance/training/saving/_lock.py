"""One run at a time in a folder."""

import os
import socket
import time
import warnings
from contextlib import suppress
from pathlib import Path

from jaxlib_guidance.training.saving._errors import (
    FolderInUseError,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, unless it is there.

    Args:
      folder: Path of the folder.

    Raises:
      OSError: There can be none; the message names the argument ``directory``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror
        for part in (folder, *folder.parents):
            if part.is_symlink() and not part.exists():
                why = f"{part} is a link to {part.readlink()}, which is not there"
        raise type(error)(
            error.errno,
            f"directory is {str(folder)!r}, where no folder can be ({why})",
        ) from None


class Lock:
    """Holds a folder until `release`, or until the process ends in whatever way.

    It is an advisory `flock` on the file "lock", which the system drops with the
    process: kill -9 and a reboot leave a file but no lock. On NFS (Linux, version 4) it
    holds between hosts too; on Lustre it needs the mount option "flock". Where a file
    system has no locks, two runs are not kept apart, and a warning says so.

    Args:
      folder: Folder to hold, which must exist.

    Raises:
      FolderInUseError: Another run holds it, or another object in this process.
    """

    def __init__(self, folder: Path):
        self._path = folder / "lock"
        self._file = self._path.open("a+")
        try:
            if fcntl is None:
                raise OSError("no flock on this system")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise FolderInUseError(
                f"{folder} is in use by {holder}. Stop that run first, or choose "
                "another directory; to read weights of a run that goes on use "
                "`restore_weights`"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{folder} cannot be locked ({error}): make sure that no other run "
                "writes to it",
                stacklevel=2,
            )
        # It only serves the message above, and the disk may be full.
        with suppress(OSError):
            self._file.truncate(0)
            self._file.write(
                f"process {os.getpid()} on {socket.gethostname()}, "
                f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
            )
            self._file.flush()
            # Other hosts read it, to see whether their folder is this one.
            os.fsync(self._file.fileno())

    def check(self) -> None:
        """Raises if the file is gone, and another run may hold a new one.

        Raises:
          FolderInUseError: It was deleted or replaced.
        """
        held = os.fstat(self._file.fileno())
        with suppress(FileNotFoundError):
            found = self._path.stat()
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
        raise FolderInUseError(
            f"{self._path} was deleted while this run held it, and another may write "
            "there too. See that none does and start again with the same arguments"
        )

    def release(self) -> None:
        """Lets go of the folder; the file stays, for another may hold it by then."""
        # A full disk: what could not be written before cannot be now.
        with suppress(OSError):
            self._file.close()
