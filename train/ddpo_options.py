"""The options of train/ddpo.py."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from rewards import is_own
from tyro.conf import OmitArgPrefixes, arg

from jaxlib_guidance.training import Hosts, Log, Scale, require_effect, require_ranges


@dataclasses.dataclass(frozen=True)
class Config:
    """A run of fine-tuning."""

    directory: Path = Path("runs/ddpo")
    """Folder of the run."""
    method: Literal["ddpo", "flow_grpo", "nft"] = "ddpo"
    """How a round learns from its samples; see docs/finetuning.md."""
    reward: str = "class"
    """"class", "compressibility", or a function of your own as file.py:function."""
    held_out: str | None = None
    """A second function beside a reward of your own, measured and not climbed."""
    targets: tuple[int, ...] = (3, 8)
    """Digits that reward "class" wants."""
    weights: str = "digits"
    """The base model: a name or a file, as `load_pretrained` takes it."""
    rounds: Annotated[int, arg(aliases=["--steps"])] = 60
    """Each draws samples, scores them and learns from them."""
    batch: int = 64
    """Samples of a round."""
    solver_steps: int = 10
    """Steps of the sampler."""
    updates: int = 1
    """Gradient steps on a round's samples."""
    guidance: float = 0.0
    """Classifier-free guidance weight of the policy, for rewards with labels."""
    kl: float = 0.0
    """Pull to the base model: of each step's divergence, or of NFT's velocities."""
    clip: float = 0.2
    """Clip of the ratio of a step's density; the field's 1e-4 is of its D-th root."""
    learning_rate: float = 3e-4
    """Adam's rate."""
    ema: float = 0.9
    """Decay of the average that is evaluated and kept."""
    count: int = 250
    """Samples of an evaluation."""
    seed: int = 0
    """Of the samples."""
    log: Log = Log(every=5, save_every=20, eval_every=10)
    scale: OmitArgPrefixes[Scale] = Scale()
    hosts: OmitArgPrefixes[Hosts] = Hosts()


def require_use(config: Config) -> None:
    """Raises for options that would change nothing, and for what there is not."""
    require_ranges(config)
    own, labelled = is_own(config.reward), config.reward != "class"
    if not own and config.reward not in ("class", "compressibility"):
        raise ValueError(
            f"reward is {config.reward!r}; expected 'class', 'compressibility' or "
            "file.py:function"
        )
    options = {
        "guidance": (labelled, "reward 'class', whose samples have no label"),
        "targets": (not labelled, f"reward {config.reward!r}, which has none"),
        "held_out": (own, "a bundled reward, which comes with a judge"),
        "clip": (config.method != "nft", "method 'nft', which has no ratios"),
    }
    require_effect(config, options)
    if not config.targets or not set(config.targets) <= set(range(10)):
        raise ValueError(f"targets is {config.targets}; expected digits from 0 to 9")
