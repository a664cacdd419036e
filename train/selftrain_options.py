"""The options of train/selftrain.py."""

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from jaxlib_guidance.training import Hosts, Log, Scale

Keep = Literal["right", "shortest", "vote", "all"]


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: rounds of self-training."""

    directory: Path = Path("runs/selftrain")
    """Folder of the run."""
    start: str = "sums_checker"
    """Bundled language model to begin with."""
    keep: Keep = "right"
    """Which answers are learned."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperature of the answers; of several, each round takes one (B-STaR)."""
    digits: int = 2
    """Digits of the numbers that are added."""
    direct: bool = False
    """Whether to answer with the sum alone, without steps."""
    rounds: int = 4
    """Rounds, each with the model before it as the author."""
    steps: int = 20
    """Steps of a round."""
    prompts: int = 8
    """Questions of a step, a multiple of the devices times --accumulate."""
    group: int = 8
    """Answers to each."""
    tries: int = 16
    """Questions by which a temperature is chosen, where there are several."""
    wanted: int = 4
    """Different right answers to a question that are enough, when it is chosen."""
    learning_rate: float = 3e-4
    """Adam's rate, which falls to 0 within each round."""
    tests: int = 256
    """Held-out questions."""
    seed: int = 0
    """Of the questions and the answers."""
    smollm2: Path | None = None
    """A GGUF file of SmolLM2, in place of ``start``."""
    sums: int = 20
    """Numbers below this are added by SmolLM2."""
    compare: int = 0
    """If not 0, runs each filter with this many seeds and prints a table."""
    log: Log = Log(every=5, save_every=20, eval_every=20)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
