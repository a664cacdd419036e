"""Ways to fine-tune the digits model for a reward: at what cost, and how far.

    python benchmarks/finetuning.py             # the tables of docs/finetuning.md
    python benchmarks/finetuning.py --only nft ddpo --picture out/ddpo.png

Runs train/ddpo.py once for each row, each into its own folder, and goes on with what it
finds there. Each run has two rows: one evaluation at which the held-out judge sees what
was asked for in 9 of 10 samples (the first, or the last where the base model had that
to begin with), and the last one. The picture has a line for each run: samples of the
base model, and of these two.

cost        network evaluations in thousands; one with a gradient counts three times
reward      what was climbed: the log-probability of a 3 or an 8 to a classifier of
            samples drawn without a label; "bits": minus those of a digit as a JPEG
held out    share of samples in which a judge, trained apart, sees what was asked for
coverage    exp(entropy) of the classes that it sees
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
from PIL import Image

from jaxlib_guidance.training import Log


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
    picture: Path | None = None


ROWS: dict[str, dict[str, Any]] = {
    "nft": {"method": "nft", "updates": 4},
    "ddpo": {"method": "ddpo"},
    "ddpo_2": {"method": "ddpo", "updates": 2},
    "flow_grpo": {"method": "flow_grpo"},
    "nft_kl": {"method": "nft", "updates": 4, "kl": 0.05},
    "ddpo_kl": {"method": "ddpo", "kl": 3e-3},
    "bits": {"method": "nft", "updates": 4, "reward": "compressibility"},
}
COLUMNS = ("reward", "held_out", "coverage", "frechet", "divergence")


def load_recipe() -> Any:
    """train/ddpo.py as a module."""
    path = Path(__file__).parents[1] / "train" / "ddpo.py"
    sys.path.append(str(path.parent))
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


def strip(sheet: Path) -> Image.Image:
    """The first three lines of a sheet of samples."""
    image = Image.open(sheet)
    return image.crop((0, 0, image.width, 3 * image.width // 10))


def main(config: Config) -> None:
    recipe = load_recipe()
    table = [
        "| Run | round | cost | reward | held out | coverage | Frechet | divergence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sheets, climbed = [], None
    for name in config.only or ROWS:
        folder = config.directory / name
        run = recipe.Config(
            directory=folder,
            rounds=config.rounds,
            count=config.count,
            seed=config.seed,
            log=Log(every=5, save_every=10, eval_every=5),
            **ROWS[name],
        )
        results = recipe.train(run)
        if not results:
            return
        base = results["base"]
        if run.reward != climbed:
            table.append(row(f"base model, {run.reward}", "0", base))
            climbed = run.reward
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        looks = [line for line in lines if "held_out" in line]
        good = [line for line in looks if line["held_out"] >= 0.9] or looks
        at = good[0 if base["held_out"] < 0.9 else -1]
        table.append(row(name, str(at["step"]), at))
        if at is not looks[-1]:
            table.append(row(name, str(looks[-1]["step"]), looks[-1]))
        print("\n".join(table), flush=True)
        middle = "after" if at is looks[-1] else f"{at['step']:05d}"
        sheets.append(
            [folder / "samples" / f"{each}.png" for each in ("before", middle, "after")]
        )
    if config.out is not None:
        config.out.write_text("\n".join(table) + "\n")
    if config.picture is not None:
        rows = [[strip(sheet) for sheet in line] for line in sheets]
        width, height = rows[0][0].size
        size = (3 * (width + 12) - 12, len(rows) * (height + 12) - 12)
        whole = Image.new("L", size, 255)
        for j, line in enumerate(rows):
            for i, part in enumerate(line):
                whole.paste(part, (i * (width + 12), j * (height + 12)))
        config.picture.parent.mkdir(parents=True, exist_ok=True)
        whole.save(config.picture)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
