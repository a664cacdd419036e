"""The options of train/reason.py."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from reason_methods import Name
from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance.training import Hosts, Log, Scale


@dataclasses.dataclass(frozen=True)
class Model:
    """The network, where it is not SmolLM2."""

    width: int = 64
    """Features of a token."""
    depth: int = 3
    """Blocks."""
    heads: int = 4
    """Attention heads."""
    hidden: int = 192
    """Features inside a block's MLP."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Learning from examples."""

    steps: int = 350
    """Steps of training."""
    batch: int = 128
    """Sums of a step."""
    learning_rate: float = 3e-3
    """Largest rate."""
    directory: Path | None = None
    """Folder of this part, which runs can share; None is "start" in the run's own."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: examples, then reward."""

    directory: Path = Path("runs/reason")
    """Folder of the run."""
    method: Name = "grpo"
    """How an update learns from its answers; see docs/policy.md."""
    reward: Literal["truth", "vote"] = "truth"
    """What is right: the sum, or the answer of most in a group (no truth is used)."""
    sums: int = 100
    """Numbers below this are added; a tenth of all sums is held out."""
    updates: Annotated[int, arg(aliases=["--steps"])] = 150
    """Each draws answers, scores them and learns from them."""
    prompts: int = 32
    """Sums of an update, a multiple of the devices times --accumulate."""
    group: int = 8
    """Answers to each."""
    learning_rate: float = 5e-4
    """Adam's rate."""
    clip: float = 0.2
    """Clip of the ratio of a token's probability."""
    kl: float = 0.0
    """Weight of k3 to the model after its examples; SCoRe has its own."""
    seed: int = 0
    """Of the weights, the sums and the answers."""
    smollm2: Path | None = None
    """A GGUF file of SmolLM2, which then starts without examples."""
    compare: int = 0
    """If not 0, runs each method with this many seeds and prints a table."""
    model: Model = Model()
    start: Start = Start()
    log: Log = Log(every=10, save_every=100, eval_every=50)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()
