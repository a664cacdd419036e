"""How a run is spread over devices and hosts: the options that all recipes share.

Recipes take both dataclasses flattened, so that their flags are ``--mesh``,
``--precision``, ``--remat``, ``--accumulate``, and ``--coordinator``, ``--processes``,
``--process``, ``--heartbeat``.
"""

import dataclasses
from typing import Literal

import jax

# Entries of a recipe's configuration under which a run may be resumed otherwise: they
# say where it is computed, not what.
FREE = ("scale.mesh", "scale.remat", "scale.accumulate", "hosts")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How a run fits its devices; of these only the precision changes what it learns.

    The others change results by rounding alone and may differ when it is resumed.
    """

    mesh: Literal["data", "fsdp"] = "data"
    """Whether each device holds the whole state or ("fsdp") its share of it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, norms and outputs are float32 always."""
    remat: bool = False
    """Recompute blocks on the backward pass, to save memory."""
    accumulate: int = 1
    """Micro-batches in which a batch is processed, to save memory."""


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Start-up of several hosts; TPU pods, Slurm and Open MPI need none of it."""

    coordinator: str | None = None
    """host:port of process 0, which all others can reach."""
    processes: int | None = None
    """Number of processes; 1 alone looks for no others."""
    process: int | None = None
    """Number of this process, from 0."""
    heartbeat: int = 100
    """Seconds without a sign of life from a process after which all others end."""


def start(hosts: Hosts) -> None:
    """Joins the processes of a run; call it before anything else that uses jax.

    Where jax recognises a cluster (Cloud TPU, Slurm, Open MPI, Kubernetes with its
    client) it finds the others by itself. Elsewhere an address makes several processes
    one run, and without it this one runs alone.

    Args:
      hosts: Address of process 0, number of processes and rank of this one: all of
        them, or none where the cluster tells jax.

    Raises:
      ValueError: Some are given and others are not; an address without a port; a rank
        that is not below the count.
      RuntimeError: jax has been used already.
    """
    given = {
        "--coordinator": hosts.coordinator,
        "--processes": hosts.processes,
        "--process": hosts.process,
    }
    missing = [name for name, value in given.items() if value is None]
    if hosts.processes == 1 and len(missing) == 2:
        return
    if missing and len(missing) < len(given):
        found = [name for name in given if name not in missing]
        raise ValueError(
            f"{', '.join(found)} without {', '.join(missing)}: expected all three, or "
            "none where the cluster tells jax (TPU pods, Slurm, Open MPI)"
        )
    if hosts.coordinator is not None and not hosts.coordinator.partition(":")[2]:
        raise ValueError(
            f"--coordinator is {hosts.coordinator!r}; expected host:port, such as "
            "10.0.0.1:1234"
        )
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.processes,
            hosts.process,
            heartbeat_timeout_seconds=hosts.heartbeat,
        )
    except ValueError as error:
        # What jax says when it recognises no cluster; it has no way to ask first.
        alone = "coordinator_address should be defined" in str(error)
        if not (missing and alone):
            raise
