"""An agent of a site, a model of its pages that learns beside it, and looking ahead.

    python benchmarks/site_lookahead.py         # the table of docs/grids.md
    python benchmarks/site_lookahead.py --seeds 1 --tuning 1 --rounds 2    # a trial

A site has 60 pages of 8 features and 4 links; a goal asks for 3 or 4 features, and one
click in ten goes astray. In each round the agent browses for goals; its policy, a
table, is the share of each link in what led to a page that fulfils them, and a model of
the next page counts all clicks. The model has two uses: imagined browsing, whose
successes the policy is trained on as well, and looking ahead, where a critic says 1,
0.5 (all features but one) or 0 of each page that the policy's three likeliest links
lead to, and of those that follow. What is measured is the exact probability to find a
page in 10 clicks, for the goals that it was trained on and for others. The policy's
prior count is searched for each row alike, on other sites.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from drawing import picture

from jaxlib_guidance.policy import lookahead_select
from jaxlib_guidance.worlds import site_graph as world

GOALS = 40


@dataclasses.dataclass(frozen=True)
class Config:
    """How much to measure, and where to draw."""

    rounds: int = 6
    browsed: int = 100
    """Real episodes of a round."""
    imagined: int = 400
    """Imagined episodes of a round."""
    clicks: int = 10
    priors: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Counts that each link has at first, searched."""
    seeds: int = 5
    """Sites that are judged."""
    tuning: int = 3
    """Sites that settings are chosen on."""
    out: Path = Path("out/site_lookahead.png")


ROWS = {
    f"{train}, look-ahead {depth}{of}": (imagined, depth, true)
    for train, imagined, looks in (
        ("self-training", 0.0, ((0, 0), (1, 0), (2, 0), (1, 1), (2, 1))),
        ("and imagined pages", 1.0, ((0, 0), (1, 0), (2, 0))),
    )
    for depth, true in looks
    for of in (", true links" if true else "",)
}


def goals(site, key):
    """Goals of 3 or 4 features that one to three pages fulfil, ``[GOALS, F]``."""
    size = site.features.shape[1]
    every = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    every = jnp.asarray(every[np.isin(every.sum(1), (3, 4))].astype(bool))
    pages = jax.vmap(partial(world.fulfilled, site))(every).sum(-1)
    odds = jnp.where((pages >= 1) & (pages <= 3), 0.0, -100.0)
    noise = jax.random.gumbel(key, odds.shape)
    return every[jax.lax.top_k(odds + noise, GOALS)[1]]


def browse(config, advance, policy, there, number, known, key):
    """Episodes: pages, links, next pages, whether they go on, and successes."""
    aim, begin, key = jax.random.split(key, 3)
    goal = jax.random.randint(aim, (number,), 0, known)
    page = jax.random.randint(begin, (number,), 0, there.shape[1])

    def click(carry, key):
        page, going = carry
        choose, move = jax.random.split(key)
        link = jax.random.categorical(choose, jnp.log(policy[goal, page]))
        after = advance(page, link, move)
        going_on = going & ~there[goal, after]
        return (after, going_on), (page, link, after, going)

    going = ~there[goal, page]
    keys = jax.random.split(key, config.clicks)
    (_, lost), moves = jax.lax.scan(click, (page, going), keys)
    return goal, moves, ~lost


def decide(policy, there, near, model, depth):
    """The policy after looking ahead: links that the critic likes best share it."""
    if depth == 0:
        return policy
    order = jnp.argsort(-policy, -1)[..., :3]
    greedy = jnp.argmax(policy, -1)
    critic = jnp.where(there, 1.0, jnp.where(near, 0.5, 0.0))
    number, pages = there.shape
    goal = jnp.arange(number)[:, None, None]
    page = model[jnp.arange(pages)[None, :, None], order]
    scores, counts, going = [], [], jnp.ones(page.shape, bool)
    for _ in range(depth):
        scores.append(critic[goal, page])
        counts.append(going)
        # What follows a page that fulfils the goal does not count.
        going &= ~there[goal, page]
        page = model[page, greedy[goal, page]]
    _, means = lookahead_select(
        jnp.stack(scores, -1), jnp.stack(counts, -1).astype(jnp.float32)
    )
    best = means >= jnp.max(means, -1, keepdims=True)
    chosen = jnp.sum(jax.nn.one_hot(order, policy.shape[-1]) * best[..., None], -2)
    kept = policy * chosen
    return kept / jnp.sum(kept, -1, keepdims=True)


def learn(config, imagined, prior, key):
    """Success of each depth and model, after each round: trained goals and others."""
    make, ask, key = jax.random.split(key, 3)
    site = world.build(make)
    asked = goals(site, ask)
    there = jax.vmap(partial(world.fulfilled, site))(asked)
    missing = jnp.sum(asked[:, None] & ~site.features[None], -1)
    pages, links = site.links.shape
    known = GOALS // 2

    def move(page, link, key):
        keys = jax.random.split(key, len(page))
        return jax.vmap(partial(world.step, site))(page, link, keys)[0]

    def credit(counts, found):
        goal, (page, link, _, going), success = found
        goal = jnp.broadcast_to(goal, page.shape)
        weight = (going & success).astype(jnp.float32)
        return counts.at[goal, page, link].add(weight)

    def policy_of(counts):
        total = counts + prior
        return total / jnp.sum(total, -1, keepdims=True)

    def a_round(carry, key):
        counts, seen = carry
        real, dream = jax.random.split(key)
        policy = policy_of(counts)
        found = browse(config, move, policy, there, config.browsed, known, real)
        _, (page, link, after, going), _ = found
        seen = seen.at[page, link, after].add(going.astype(jnp.float32))
        counts = credit(counts, found)
        # What was never clicked may lead anywhere.
        odds = jnp.log(seen + 0.5 / pages)

        def advance(page, link, key):
            return jax.random.categorical(key, odds[page, link])

        thought = browse(
            config, advance, policy_of(counts), there, config.imagined, known, dream
        )
        counts = jnp.where(imagined > 0, credit(counts, thought), counts)
        policy, model = policy_of(counts), jnp.argmax(seen, -1)
        # A link that was never clicked: the page itself, which promises nothing.
        unseen = jnp.sum(seen, -1) == 0
        model = jnp.where(unseen, jnp.arange(pages)[:, None], model)
        results = []
        looks = [(0, model), (1, model), (2, model), (1, site.links), (2, site.links)]
        for depth, links in looks:
            acting = decide(policy, there, missing == 1, links, depth)
            each = jax.vmap(partial(world.success, site, clicks=config.clicks))
            rate = each(asked, acting).mean(-1)
            results.append(jnp.stack([rate[:known].mean(), rate[known:].mean()]))
        share = jnp.mean(jnp.where(unseen, 0.0, model == site.links))
        return (counts, seen), (jnp.stack(results), share)

    counts = jnp.zeros((GOALS, pages, links))
    first = counts, jnp.zeros((pages, links, pages))
    keys = jax.random.split(key, config.rounds)
    _, (results, share) = jax.lax.scan(a_round, first, keys)
    best = jax.vmap(lambda goal: world.solve(site, goal, config.clicks))(asked)
    best = best.mean(-1)
    return results, share, jnp.stack([best[:known].mean(), best[known:].mean()])


def main(config: Config) -> dict:
    """Trains both agents, prints and draws; returns curves by row."""
    begin, cpu = time.monotonic(), time.process_time()
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    run = partial(learn, config)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        run = jax.vmap(run, axes)
    found, share, best = (
        np.asarray(x)
        for x in jax.jit(run)(jnp.array([0.0, 1.0]), jnp.array(config.priors), keys)
    )
    print("| agent | prior | trained goals | seeds | other goals | seeds |")
    print("|---|---|---|---|---|---|")
    at = {(0, 0): 0, (1, 0): 1, (2, 0): 2, (1, 1): 3, (2, 1): 4}
    kept = {}
    for name, (imagined, depth, true) in ROWS.items():
        curves = found[int(imagined), ..., at[depth, true], :]
        chosen = int(np.argmax(curves[:, : config.tuning, -1, 0].mean(1)))
        judged = kept[name] = curves[chosen, config.tuning :]
        cells = []
        for column in judged[:, -1].T:
            each = " ".join(f"{x:.2f}" for x in column)
            cells += [f"{column.mean():.3f} ± {column.std():.3f}", each]
        print(f"| {name} | {config.priors[chosen]:g} | {' | '.join(cells)} |")
    top = best[0, 0, config.tuning :].mean(0)
    print(f"| optimum | – | {top[0]:.3f} | | {top[1]:.3f} | |")
    right = share[0, :, config.tuning :, -1].mean()
    print(f"\nlinks that the model knows right in the end: {right:.2f}")
    spent = time.monotonic() - begin, time.process_time() - cpu
    print(f"{spent[0]:.0f} s, {spent[1]:.0f} of CPU", flush=True)
    draw(config, kept, top)
    return kept


def draw(config, kept, top):
    """Success over rounds, for trained goals and for others."""
    with picture(config.out, (9, 3.2)) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        x = config.browsed * np.arange(1, config.rounds + 1)
        for i, (panel, name) in enumerate(
            zip(panels, ("trained goals", "other goals"), strict=True)
        ):
            for row, curves in kept.items():
                style = ":" if "true" in row else "--" if "imagined" in row else "-"
                color = f"C{row.count('true') * 3 + int(row.split('ahead ')[1][0])}"
                panel.plot(x, curves[..., i].mean(0), style, color=color, label=row)
            panel.axhline(top[i], color="k", lw=0.8)
            panel.set(title=name, xlabel="real episodes")
        panels[0].set_ylabel("success in 10 clicks")
        panels[1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
