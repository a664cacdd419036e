"""A direction in the residual stream that makes answers shorter.

    python benchmarks/sums_steering.py           # half a minute of one core
    python benchmarks/sums_steering.py --picture sums_steering.png

The model answers sums of two digits with columns, looks at some again, and often does
all twice. From its short and its long right answers comes a direction, in the residual
stream after each block; added with some strength while it answers held-out sums, it
may shorten. Beside it stand random directions of equal norm, and a lower temperature.
Nothing is trained. Seeds differ in the answers that the direction is taken from, in the
random direction and in the answers that are measured.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from drawing import picture
from sums_rounds import cell
from sums_runs import draw, groups, held_out, load, problems, repeat

from jaxlib_guidance import attention, policy
from jaxlib_guidance.worlds import sums


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    model: str = "sums_checker"
    """Model that answers."""
    prompts: int = 96
    """Sums that the direction is taken from."""
    group: int = 8
    """Answers to each."""
    length: int = 48
    """Places of an answer."""
    strengths: tuple[float, ...] = (-1.0, 0.0, 0.5, 0.75, 1.0, 1.5)
    """Factors of the direction."""
    seeds: int = 3
    """Directions, random directions, and samples."""
    tests: int = 192
    """Held-out sums."""
    picture: Path | None = None
    """File for the plane of accuracy and length; None for none."""


def directions(config, lm, params, key):
    """From long right answers to short ones to the same sums, ``[block, C]``."""
    which, how = jax.random.split(key)
    asked = repeat(problems(which, sums.Sums(2, 2), config.prompts), config.group)
    rows = draw(lm, params, how, jax.vmap(sums.prompt)(asked), steps=config.length)
    found = jax.vmap(sums.check)(asked, rows.tokens, rows.mask)
    length = groups(jnp.where(found.right, found.length * 1.0, jnp.nan), config.group)
    # The shortest and the longest right answer of a sum, where they differ.
    pairs = policy.pair_from_scores(-length)
    index = jnp.arange(config.group)
    short, long = (
        ((index == x[:, None]) & (pairs.mask[:, None] > 0)).reshape(-1)
        for x in (pairs.chosen, pairs.rejected)
    )
    whole = jnp.concatenate([rows.prompt, rows.tokens], 1)
    seen = jnp.concatenate([rows.prompt_mask, rows.mask], 1)
    names = lm.feature_sites
    taps = lm.apply({"params": params}, whole, seen, method="residuals", capture=names)
    own = rows.mask[..., None]
    start = rows.prompt.shape[1]
    means = [jnp.sum(taps[x][:, start:] * own, 1) / jnp.sum(own, 1) for x in names]
    return jnp.stack([attention.steering_direction(x, short, long) for x in means])


def main(config: Config) -> dict[str, np.ndarray]:
    """Prints the tables; returns ``[right or tokens, strength, seed]`` by row."""
    lm, params = load(config.model)
    tests = held_out(2, config.tests)
    strengths = jnp.array(config.strengths)
    keys = jax.random.split(jax.random.key(0), config.seeds)

    def answer(direction, place, strength, key):
        edit = attention.steer(direction[place], strength)
        control = {lm.feature_sites[place]: edit}
        return measure(key, control=control)

    def measure(key, **options):
        rows = draw(
            lm,
            params,
            key,
            jax.vmap(sums.prompt)(tests),
            steps=config.length,
            **options,
        )
        found = jax.vmap(sums.check)(tests, rows.tokens, rows.mask)
        return jnp.stack([jnp.mean(found.right * 1.0), jnp.mean(found.length * 1.0)])

    found = {}
    toward = jax.jit(jax.vmap(lambda key: directions(config, lm, params, key)))(keys)
    random = jax.vmap(
        lambda key: jax.random.normal(jax.random.fold_in(key, 1), toward[0].shape)
    )(keys)
    size = [jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (toward, random)]
    random *= size[0] / size[1]
    for name, way in {"direction": toward, "random": random}.items():
        for place, site in enumerate(lm.feature_sites):
            over = jax.vmap(
                lambda v, s, k, p=place: answer(v, p, s, k), (None, 0, None)
            )
            over = jax.jit(jax.vmap(over, (0, None, 0)))
            found[f"{name}, {site}"] = np.moveaxis(
                np.array(over(way, strengths, keys)), -1, 0
            ).swapaxes(1, 2)
    heats = jnp.array([0.6, 0.8, 1.0])
    over = jax.vmap(lambda t, k: measure(k, temperature=t), (0, None))
    cooled = jax.jit(jax.vmap(over, (None, 0)))(heats, keys)
    found["temperature"] = np.moveaxis(np.array(cooled), -1, 0).swapaxes(1, 2)

    norms = np.linalg.norm(np.array(toward), axis=-1).mean(0)
    print(f"norms of the directions: {' '.join(f'{x:.2f}' for x in norms)}\n")
    heads = "| added | strength | right | tokens |\n|---|---|---|---|"
    print(heads)
    for name, (right, tokens) in found.items():
        levels = heats if name == "temperature" else strengths
        for level, x, y in zip(levels, right, tokens, strict=True):
            print(f"| {name} | {level:g} | {cell(x)} | {cell(y, 1)} |")
    if config.picture is not None:
        show(config, found)
    return found


def show(config, found):
    """The way of each row over the plane of accuracy and length, means of seeds."""
    with picture(config.picture, (6, 3.6), dpi=110) as figure:
        axis = figure.subplots()
        for color, (name, (right, tokens)) in enumerate(found.items()):
            style = "--" if name.startswith("random") else "-"
            axis.plot(
                tokens.mean(1),
                right.mean(1),
                f".{style}",
                color=f"C{color}",
                label=name,
            )
        axis.set(xlabel="tokens of an answer", ylabel="share of right answers")
        axis.legend(fontsize=7)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
