"""What can go wrong while a run is saved, read or opened."""


class SaveError(RuntimeError):
    """A checkpoint that could not be written."""


class CorruptCheckpointError(ValueError):
    """A checkpoint that cannot be read, or whose contents are not what was saved."""


class FolderInUseError(RuntimeError):
    """A folder into which another run is writing now."""
