"""Where samples go."""

from pathlib import Path


def require_writable(out: Path) -> None:
    """Makes the folder of a file that is to be written.

    Raises:
      OSError: There can be no such folder, or no such file in it.
    """
    path = out.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise OSError(
            f"out is {str(out)!r}, where no file can be ({error.strerror})"
        ) from None
