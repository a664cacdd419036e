"""Metrics for the services that show curves; each is imported where it is asked for."""

import importlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

Service = Literal["tensorboard", "wandb"]


class Writer(NamedTuple):
    """``write(step, numbers by name)``, and ``close()``."""

    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


def open_writer(service: str, folder: Path, step: int) -> Writer:
    """A writer of a run's metrics, which goes on with what the run wrote before.

    Args:
      service: "tensorboard", whose files are in ``folder/events``; or "wandb", whose
        project is ``$WANDB_PROJECT`` or "jaxlib_guidance".
      folder: Folder of the run.
      step: Number of steps already taken.

    Raises:
      ValueError: Another service.
      ModuleNotFoundError: The service's package is not installed.
    """
    if service not in WRITERS:
        raise ValueError(f"log.to is {service!r}; expected one of {tuple(WRITERS)}")
    package, make = WRITERS[service]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{service} needs {package}: pip install {package}"
        ) from error
    return make(module, folder, step)


def _tensorboard(module: Any, folder: Path, step: int) -> Writer:
    # Steps that a killed run took after its last checkpoint are taken again.
    events = module.SummaryWriter(str(folder / "events"), purge_step=step + 1)

    def write(step, values):
        for name, value in values.items():
            events.add_scalar(name, value, step)

    return Writer(write, events.close)


def _wandb(module: Any, folder: Path, step: int) -> Writer:
    # The same curves after a restart, which the service knows by this name alone.
    kept = folder / "wandb_id"
    if not kept.exists():
        kept.write_text(uuid.uuid4().hex[:12])
    config = folder / "config.json"
    run = module.init(
        project=os.environ.get("WANDB_PROJECT", "jaxlib_guidance"),
        name=folder.name,
        id=kept.read_text(),
        resume="allow",
        dir=str(folder),
        config=json.loads(config.read_text()) if config.exists() else None,
    )

    def write(step, values):
        run.log(dict(values), step=step)

    return Writer(write, run.finish)


WRITERS: dict[str, tuple[str, Callable[[Any, Path, int], Writer]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
}
