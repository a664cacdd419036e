"""A crew that talks about who the impostor is, paid for its words or for the win alone.

    python benchmarks/hidden_role.py                    # the tables of docs/grids.md
    python benchmarks/hidden_role.py --right 0
    python benchmarks/hidden_role.py --seeds 2 --tuning 1 --updates 20 60    # a trial

The world is `worlds.hidden_role`: three crew members and an impostor, who speaks by the
crew's own rules from an alibi. All learn by policy gradients on the win and on right
votes, as in the released code; *listening* adds the cross-entropy of who the impostor
is, before and after each word, and *speaking* pays a word by the change of what the
crew believes. The step size and the weight of the KL to the first policy are searched
for each row alike, by the win rate on other seeds. The second table has impostors that
learn, or speak, by other rules.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hidden_role_players import (
    ADAPTIVE,
    COIN,
    KNOWN,
    LEARNED,
    LITERAL,
    MIMIC,
    OWN,
    PLAIN,
    SEATS,
    SPEAKER,
    TO_PLACE,
    bayes,
    chosen,
    heads,
    knowing,
    network,
    of,
    play,
    reread,
)
from scipy.stats import t

from jaxlib_guidance.policy import belief_shift, focal_nll, gae, kl_loss, reinforce
from jaxlib_guidance.reduce import masked_mean
from jaxlib_guidance.worlds import hidden_role as world
from jaxlib_guidance.worlds import hidden_role_beliefs as exact


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: tuple[int, int] = (40, 600)
    """Updates of a short and of a long run, each tuned by itself."""
    games: int = 32
    """Games of an update."""
    hidden: int = 32
    """Hidden units."""
    seeds: int = 5
    """Runs of each row."""
    tuning: int = 3
    """Runs that choose the settings of each row, which are not reported."""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """Step sizes of Adam, each tried by each row."""
    weights: tuple[float, ...] = (0.003, 0.03)
    """Weights of the KL to the first policy, each tried by each row."""
    right: float = 0.2
    """Reward of a vote for the impostor, as in the released code; a win has 1."""
    test: int = 2048
    """Games of an evaluation."""


class Arm(NamedTuple):
    """What a crew learns from beside the win, and how it speaks."""

    listen: float = 0.0
    speak: float = 0.0
    mode: int = LEARNED


class Spy(NamedTuple):
    """How the impostor speaks and learns."""

    kind: int = MIMIC
    rate: float = 0.01
    weight: float = 0.3
    """Of the KL to the mimic's words."""


ROWS = {
    "random words, listening": Arm(1, 0, COIN),
    "win": Arm(),
    "win, listening": Arm(1),
    "win, speaking": Arm(0, 1),
    "win, listening, speaking": Arm(1, 1),
    "plain words, listening": Arm(1, 0, LITERAL),
}
SPIES = {
    "a mimic": Spy(),
    "one that adapts": Spy(ADAPTIVE),
    "its own network": Spy(OWN),
    "plain words": Spy(PLAIN),
}
SECOND = Spy(ADAPTIVE, 0.03, 0.003)
"""An impostor that learns after the crew, and stays less near to the mimic."""
DECIDES = np.stack([SEATS, SEATS + 4, np.full(4, 8)], 1)
"""When each player speaks and votes."""
ODDS = np.s_[..., world.WORDS : -1]


def at_decisions(values):
    return values[:, DECIDES, SEATS[:, None]]


def believed(games):
    """What each player gives the true impostor before and after each word."""
    odds = games.outs[ODDS]
    return jnp.exp(chosen(odds, guesses(games, odds)))


def guesses(games, odds):
    return jnp.broadcast_to(games.truth[:, None] - 1, odds.shape[:-1])


def advantages(reward, value):
    """GAE over decisions ``[B, N, D]``, the last of which ends the game.

    As in the released code time stands still while all talk, so nothing is discounted.
    """
    after = jnp.pad(value[..., 1:], ((0, 0), (0, 0), (0, 1)))
    end = np.arange(value.shape[-1]) == value.shape[-1] - 1
    run = partial(gae, gamma=1.0, lam=0.95)
    run = jax.vmap(jax.vmap(run, (0, 0, 0, None, None)), (0, 0, 0, None, None))
    return run(reward, value, after, end, np.zeros_like(end))


def near_start(logp, options):
    """Half the squared log-ratio to the first policy, which is uniform."""
    return kl_loss(logp, jnp.full_like(logp, -np.log(options)), kind="k2")


def crew_loss(net, games, gain, target, arm, weight):
    """Words and votes by their advantages, values, and listening."""
    outs = reread(net, games.state.seen, games.heard)
    place = jnp.asarray(TO_PLACE)[SPEAKER, games.words]
    words = outs[:, np.arange(world.TURNS), SPEAKER, : world.WORDS]
    said, voted = chosen(words, place), chosen(outs[:, -1][ODDS], games.vote - 1)
    of_words = jnp.moveaxis(gain[..., :2], 2, 1).reshape(said.shape)
    crew = games.crew
    total = masked_mean(
        reinforce(said, of_words) + weight * near_start(said, world.WORDS),
        crew[:, SPEAKER],
    )
    total += masked_mean(
        reinforce(voted, gain[..., 2]) + weight * near_start(voted, 3), crew
    )
    miss = (at_decisions(outs[..., -1]) - target) ** 2
    total += masked_mean(miss, jnp.broadcast_to(crew[..., None], miss.shape)) / 2
    heard = focal_nll(chosen(outs[ODDS], guesses(games, outs[ODDS])))
    everyone = jnp.broadcast_to(crew[:, None], heard.shape)
    return total + arm.listen * masked_mean(heard, everyone)


def spy_loss(net, games, logits, shift, arm, weight):
    """The impostor's two words by its own advantages, not far from the mimic's."""
    spy = games.state.impostor
    turns = jnp.stack([spy, spy + world.PLAYERS], 1)

    def mine(x):
        return jnp.take_along_axis(x, turns.reshape(-1, 2, *[1] * (x.ndim - 2)), 1)

    reward = arm.speak * mine(shift) + (1 - games.win)[:, None] * np.array([0, 1])
    gain, target = advantages(reward[:, None], mine(games.spy[..., -1])[:, None])
    mimic = mine(logits - games.spy[..., : world.WORDS])
    start = knowing(net, games.state.seen, spy)[:, None]
    past = jnp.cumsum(net["in"][of(games.heard, spy)], 1)
    outs = heads(net, mine(jnp.concatenate([start, start + past[:, :-1]], 1)))
    place = mine(jnp.asarray(TO_PLACE)[SPEAKER, games.words])
    said = chosen(mimic + outs[..., : world.WORDS], place)
    away = kl_loss(said, chosen(mimic, place), kind="k2")
    miss = (outs[..., -1] - target[:, 0]) ** 2 / 2
    return jnp.mean(reinforce(said, gain[:, 0]) + weight * away + miss)


def learn(config, game, updates, arm, spy, setting, key, crew, frozen):
    """A crew and an impostor that learn together, or an impostor against ``crew``."""
    rate, weight = setting
    of_crew, of_spy, of_games = jax.random.split(key, 3)
    fresh = network(of_crew, config.hidden)
    net = jax.tree.map(lambda a, b: jnp.where(frozen, a, b), crew, fresh)
    nets = net, network(of_spy, config.hidden, KNOWN)
    tx, spytx = optax.adam(jnp.where(frozen, 0.0, rate)), optax.adam(spy.rate)

    def update(number, carry):
        (net, spynet), (opt, spyopt) = carry
        games, logits = play(
            game, net, spynet, jax.random.fold_in(of_games, number), config.games,
            mode=arm.mode, kind=spy.kind,
        )  # fmt: skip
        side = 2 * games.crew[:, SPEAKER] - 1
        shift = jax.vmap(belief_shift)(believed(games), side, games.crew)
        talk = arm.speak * jnp.moveaxis(shift.reshape(-1, 2, world.PLAYERS), 1, 2)
        paid = games.win[:, None] + config.right * (games.vote == games.truth)
        reward = jnp.concatenate([talk, paid[..., None]], -1)
        gain, target = advantages(reward, at_decisions(games.outs[..., -1]))
        slope = jax.grad(crew_loss)(net, games, gain, target, arm, weight)
        step, opt = tx.update(slope, opt)
        net = optax.apply_updates(net, step)
        slope = jax.grad(spy_loss)(spynet, games, logits, shift, arm, spy.weight)
        step, spyopt = spytx.update(slope, spyopt)
        return (net, optax.apply_updates(spynet, step)), (opt, spyopt)

    states = tx.init(nets[0]), spytx.init(nets[1])
    # A number of updates that is data: short and long runs are one program.
    return jax.lax.fori_loop(0, updates, update, (nets, states))[0]


def measure(config, game, arm, spy, nets):
    """Win rate of the likeliest and of drawn votes, Bayes' rate, beliefs, ``[5]``."""
    games, _ = play(
        game, *nets, jax.random.key(77), config.test, mode=arm.mode, kind=spy.kind,
        greedy=True,
    )  # fmt: skip
    sure, crew = believed(games), games.crew
    drawn = jnp.prod(jnp.where(crew > 0, sure[:, -1], 1.0), -1)
    ends = [masked_mean(sure[:, i], crew) for i in (0, -1)]
    return jnp.stack(
        [jnp.mean(games.win), jnp.mean(drawn), bayes(game, nets[0], games), *ends]
    )


def runs(config, game):
    """What trains and measures a crew, and what then trains an impostor against it."""
    train = jax.jit(partial(learn, config, game))
    test = jax.jit(partial(measure, config, game))
    nobody = network(jax.random.key(0), config.hidden)

    def run(updates, arm, spy, setting, key, crew=None):
        # All numbers are float32, so that each program is compiled once.
        arm, spy, setting = jax.tree.map(jnp.float32, (arm, spy, setting))
        frozen = jnp.bool_(crew is not None)
        crew = nobody if crew is None else crew
        nets = train(updates, arm, spy, setting, key, crew, frozen)
        return nets[0], np.asarray(test(arm, spy, nets))

    def second(updates, arm, key, crew):
        # It is paid for the win alone, whatever the crew was.
        arm = arm._replace(speak=0.0)
        return run(updates, arm, SECOND, (0.0, 0.0), key, crew)[1][0]

    return run, second


def main(config: Config) -> dict:
    """Prints the tables; returns the columns of each row, ``[seeds, 6]``."""
    game = world.build()
    run, second = runs(config, game)
    grid = [(r, w) for r in config.rates for w in config.weights]
    keys = jax.random.split(jax.random.key(0), config.tuning + config.seeds)
    tests = keys[config.tuning :]
    short, long = config.updates
    early, kept, settings = {}, {}, {}

    def cells(updates, arm, spy, setting, answered):
        rows = []
        for key in tests:
            crew, found = run(updates, arm, spy, setting, key)
            last = second(updates, arm, key, crew) if answered else np.nan
            rows.append([*found, last])
        return np.array(rows)

    for name, arm in ROWS.items():
        for updates in (short, long):
            tried = [
                [run(updates, arm, Spy(), s, k)[1][0] for k in keys[: config.tuning]]
                for s in grid
            ]
            settings[name, updates] = best = grid[np.mean(tried, 1).argmax()]
            found = cells(updates, arm, Spy(), best, updates == long)
            (early if updates == short else kept)[name] = found
    table(config, early, kept, settings, exact.solve(game))
    print("\n| impostor | crew | win | seeds | impostor that learns afterwards |")
    print("|---|---|---|---|---|")
    for who, spy in SPIES.items():
        for name in ("win", "win, listening, speaking"):
            found = kept[name]
            if spy.kind != MIMIC:
                found = cells(long, ROWS[name], spy, settings[name, long], True)
                kept[f"{who}: {name}"] = found
            each = " ".join(f"{x:.2f}" for x in found[:, 0])
            print(f"| {who} | {name} | {mean(found, 0)} | {each} | {mean(found, 5)} |")
    return kept


def mean(cells, column):
    """Mean and 95 % interval of the mean over seeds."""
    x = cells[:, column]
    half = t.ppf(0.975, max(len(x) - 1, 1)) * x.std() / max(len(x) - 1, 1) ** 0.5
    return f"{x.mean():.3f} ± {half:.3f}"


def table(config, early, kept, settings, best):
    """The first table of the docs."""
    first, last = (f"{n * config.games:,} games" for n in config.updates)
    print(
        f"| crew | {first}: rate, weight | win | {last}: rate, weight | win | seeds | "
        "votes drawn | heard by Bayes | belief before, after | "
        "impostor that learns afterwards |"
    )
    print("|---" * 10 + "|")
    for name, rate in (
        ("exact, each alone", best.alone),
        ("exact, by plain words", best.literal),
        ("exact, by dossiers", best.told),
    ):
        print(f"| {name} | – | – | – | {float(rate):.3f} |" + " – |" * 5)
    for name, found in kept.items():
        short, long = ("{:g}, {:g}".format(*settings[name, n]) for n in config.updates)
        each = " ".join(f"{x:.2f}" for x in found[:, 0])
        learned = ROWS[name].mode == LEARNED
        bayes_rate = mean(found, 2) if learned else "–"
        print(
            f"| {name} | {short} | {mean(early[name], 0)} | {long} | "
            f"{mean(found, 0)} | {each} | {found[:, 1].mean():.3f} | {bayes_rate} | "
            f"{found[:, 3].mean():.2f}, {found[:, 4].mean():.2f} | {mean(found, 5)} |"
        )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
