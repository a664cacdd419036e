"""Three ways to fine-tune the digits model for a reward, at what cost, and how far.

    python benchmarks/finetuning.py             # the table of docs/finetuning.md
    python benchmarks/finetuning.py --only nft --rounds 20

Runs train/ddpo.py once for each row, each into its own folder, and goes on with what it
finds there. Each run has two rows: the first evaluation at which the held-out judge
sees a wanted digit in 9 of 10 samples, and the last one.

cost        network evaluations in thousands; one with a gradient counts three times
reward      what was climbed: a classifier's log-probability of the wanted digits
held out    share of samples in which a judge, trained apart, sees a wanted digit
coverage    exp(entropy) of the classes that it sees; 2 when both are even
Frechet     between its features of samples and of all real digits of these classes
divergence  nats from the paths of the base model's ancestral sampling to the policy's
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import tyro


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run."""

    directory: Path = Path("runs/finetuning")
    rounds: int = 40
    count: int = 250
    """Samples of an evaluation."""
    seed: int = 0
    only: tuple[str, ...] = ()
    """Names of rows; all of them if none is given."""
    out: Path | None = None
    """Markdown file to write the table to."""


ROWS: dict[str, dict[str, Any]] = {
    "ddpo": {"method": "ddpo"},
    "flow_grpo": {"method": "flow_grpo"},
    "nft": {"method": "nft", "updates": 4},
    "ddpo_kl": {"method": "ddpo", "kl": 3e-3},
    "nft_kl": {"method": "nft", "updates": 4, "kl": 0.05},
}
COLUMNS = ("reward", "held_out", "coverage", "frechet", "divergence")


def load_recipe() -> Any:
    """train/ddpo.py as a module."""
    path = Path(__file__).parents[1] / "train" / "ddpo.py"
    spec = importlib.util.spec_from_file_location("train_ddpo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def row(name: str, when: str, line: dict[str, float]) -> str:
    cost = (line.get("evaluations", 0) + 3 * line.get("gradients", 0)) / 1000
    cells = [name, when, f"{cost:.0f}", *(f"{line[key]:.2f}" for key in COLUMNS)]
    return f"| {' | '.join(cells)} |"


def main(config: Config) -> None:
    recipe = load_recipe()
    table = [
        "| Run | round | cost | reward | held out | coverage | Frechet | divergence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in config.only or ROWS:
        folder = config.directory / name
        run = recipe.Config(
            directory=folder,
            rounds=config.rounds,
            count=config.count,
            seed=config.seed,
            log=recipe.Log(every=5, save_every=10, look_every=5),
            **ROWS[name],
        )
        results = recipe.train(run)
        if not results:
            return
        if len(table) == 2:
            table.append(row("base model", "0", results["base"]))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        looks = [line for line in lines if "held_out" in line]
        good = next((line for line in looks if line["held_out"] >= 0.9), None)
        if good is not None:
            table.append(row(f"{name}, 9 of 10", str(good["step"]), good))
        table.append(row(f"{name}, last", str(looks[-1]["step"]), looks[-1]))
        print("\n".join(table), flush=True)
    if config.out is not None:
        config.out.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
