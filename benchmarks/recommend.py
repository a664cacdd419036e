"""A recommender of novelty: one policy, or one for users and one for sessions.

    python benchmarks/recommend.py                      # the table of docs/grids.md
    python benchmarks/recommend.py --seeds 1 --tuning 1 --updates 20    # a trial

The world is `worlds.users`: in each of ten sessions a user seeks novelty, or does not,
with a propensity of his own. A slate of four items is drawn without replacement by
``exp(sharpness (taste + intent (2 novelty - 1)))``, where a small network says the
intent. Its inputs are a signal of past sessions, that of this session, both, or, in a
hierarchy, that of this session and one of three levels, which another network draws
once a session from the past. All are trained by REINFORCE on the returns of a session;
clicks, novel clicks and diversity have a critic each, whose advantages are weighed by
`policy.aggregate_advantages`, or one for their sum. The step size and the weight of
novelty and diversity are searched for each row alike, by clicks of other seeds.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawing import picture

from jaxlib_guidance.policy import aggregate_advantages, reinforce
from jaxlib_guidance.worlds import users as world


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the comparison."""

    updates: int = 150
    """Updates of the policy."""
    users: int = 32
    """Users of an update, ten sessions each."""
    judged: int = 1000
    """Users on whom a policy is judged."""
    seeds: int = 5
    """Runs of each row."""
    tuning: int = 2
    """Runs that choose the settings of each row, which are not reported."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Step sizes of Adam, each tried by each row."""
    weights: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Weights of novelty and of diversity beside clicks, each tried by each row."""
    alpha: float = 0.5
    """First number of the propensities' Beta distribution."""
    beta: float = 0.8
    """Its second number."""
    picture: Path | None = None
    """File for the clicks of each row; None for none."""


SESSIONS, SLATES, SHOWN = 10, 3, 4
PAST, COUNT, NOW, SLATE, TOLD, LEVEL = range(6)
# Inputs of the intent, whether a level is drawn by another network, critics.
ROWS = {
    "fixed intent": ((), False, 3),
    "flat, past sessions": ((PAST, COUNT), False, 3),
    "flat, this session": ((NOW, SLATE), False, 3),
    "flat, both": ((PAST, COUNT, NOW, SLATE), False, 3),
    "flat, both, one critic": ((PAST, COUNT, NOW, SLATE), False, 1),
    "hierarchy": ((LEVEL, NOW, SLATE), True, 3),
    "hierarchy, one critic": ((LEVEL, NOW, SLATE), True, 1),
    "flat, told who seeks": ((TOLD, SLATE), False, 3),
}


def init(key):
    """The intent's network, that of levels, and the sharpness."""
    one, two = jax.random.split(key)

    def network(key, inputs, outputs):
        first = jax.random.normal(key, (inputs, 16)) / 2
        return first, jnp.zeros(16), jnp.zeros((16, outputs)), jnp.zeros(outputs)

    low, high = network(one, 6, 1), network(two, 2, 3)
    return {"low": low, "high": high, "sharp": jnp.log(2.0)}


def apply(layers, x):
    """A layer of 16 units."""
    first, bias, last, start = layers
    return jnp.tanh(x @ first + bias) @ last + start


def slate_logp(scores, slate):
    """Log-probability of a slate in its order, drawn without replacement."""
    total = 0.0
    for place in range(SHOWN):
        item = slate[..., place : place + 1]
        each = jax.nn.log_softmax(scores)
        total += jnp.take_along_axis(each, item, -1)[..., 0]
        scores = jnp.where(jnp.arange(scores.shape[-1]) == item, -1e9, scores)
    return total


def scores_of(made, params, state, intent):
    """What the draw of a slate goes by, ``[N]``."""
    lean = intent * (2 * world.novelty(made, state) - 1)
    return jnp.exp(params["sharp"]) * (made.appeal * (made.items @ state.taste) + lean)


def browse(made, params, mask, key, explore):
    """One user: all that happened, by slate."""
    come, key = jax.random.split(key)
    state, _ = world.reset(made, come)

    def show(carry, key):
        state, now, past, count, level = carry
        draw, pick, click = jax.random.split(key, 3)
        begins = state.slate == 0
        seen = jnp.stack([past / jnp.maximum(count, 1), count / SESSIONS])
        logits = apply(params["high"], seen)
        noise = explore * jax.random.gumbel(draw, logits.shape)
        level = jnp.where(begins, jnp.argmax(logits + noise), level)
        told = jnp.stack(
            [
                *seen, now, state.slate / SLATES,
                state.seeking.astype(jnp.float32), level.astype(jnp.float32) - 1,
            ]
        )  # fmt: skip
        inputs = mask * told
        intent = apply(params["low"], inputs)[0]
        scores = scores_of(made, params, state, intent)
        noise = explore * jax.random.gumbel(pick, scores.shape)
        slate = jax.lax.top_k(scores + noise, SHOWN)[1]
        novel = world.novelty(made, state)[slate]
        after, clicks, _, _ = world.step(made, state, slate, click)
        # Clicks beyond what taste explains, for novel items; less for familiar ones.
        liked = made.appeal * made.items[slate] @ state.taste
        usual = jax.nn.sigmoid(liked + made.offset)
        signal = jnp.sum((clicks - usual) * (2 * novel - 1))
        ends = after.slate == 0
        rewards = jnp.stack(
            [
                jnp.sum(clicks, dtype=jnp.float32), jnp.sum(clicks * novel),
                world.diversity(made, slate),
            ]
        )  # fmt: skip
        happened = {
            "inputs": inputs, "seen": seen, "level": level, "slate": slate,
            "state": state, "intent": intent, "rewards": rewards,
        }  # fmt: skip
        new = now + signal
        after = (
            after, jnp.where(ends, 0.0, new), past + jnp.where(ends, new, 0.0),
            count + ends, level,
        )  # fmt: skip
        return after, happened

    start = state, jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0)
    return jax.lax.scan(show, start, jax.random.split(key, SESSIONS * SLATES))[1]


def critics(returns, inputs):
    """Advantages over a least-squares fit of each return, ``[C, M]``."""
    x = jnp.concatenate([inputs, inputs**2, jnp.ones((len(inputs), 1))], -1)
    gram = x.T @ x + 1e-3 * len(x) * jnp.eye(x.shape[1])
    return (returns - x @ jnp.linalg.solve(gram, x.T @ returns)).T


def learn(config, made, mask, levels, one, rate, weight, key):
    """What the last policy is worth, by the items that it likes best."""
    tx = optax.adam(rate)
    weights = jnp.stack([jnp.float32(1), weight, weight])

    def weigh(returns, inputs):
        apart = aggregate_advantages(critics(returns, inputs), weights)
        whole = aggregate_advantages(
            critics(returns @ weights[:, None], inputs), jnp.ones(1)
        )
        return jnp.where(one, whole, apart)

    def update(carry, key):
        params, moments = carry
        play = partial(browse, made, params, mask, explore=1.0)
        told = jax.vmap(play)(jax.random.split(key, config.users))
        shape = config.users, SESSIONS, SLATES, 3
        later = told["rewards"].reshape(shape)
        later = jnp.cumsum(later[:, :, ::-1], 2)[:, :, ::-1]
        inputs = told["inputs"].reshape(-1, 6)
        low = weigh(later.reshape(-1, 3), inputs)
        first = jax.tree.map(
            lambda x: x.reshape(config.users * SESSIONS, SLATES, *x.shape[2:])[:, 0],
            {name: told[name] for name in ("seen", "level")},
        )
        high = weigh(later[:, :, 0].reshape(-1, 3), first["seen"])

        def loss(params):
            def again(state, x, slate):
                intent = apply(params["low"], x)[0]
                return slate_logp(scores_of(made, params, state, intent), slate)

            shown = told["state"], told["inputs"], told["slate"]
            each = jax.vmap(jax.vmap(again))(*shown)
            total = jnp.mean(reinforce(each.reshape(-1), low))
            drawn = jax.nn.log_softmax(apply(params["high"], first["seen"]))
            drawn = jnp.take_along_axis(drawn, first["level"][:, None], -1)[:, 0]
            return total + levels * jnp.mean(reinforce(drawn, high))

        step, moments = tx.update(jax.grad(loss)(params), moments)
        params = optax.apply_updates(params, step)
        return (params, moments), None

    test, begin, key = jax.random.split(key, 3)
    params = init(begin)
    keys = jax.random.split(key, config.updates)
    (params, _), _ = jax.lax.scan(update, (params, tx.init(params)), keys)
    play = partial(browse, made, params, mask, explore=0.0)
    told = jax.vmap(play)(jax.random.split(test, config.judged))
    return measure(told["rewards"], told["intent"], told["state"])


def measure(rewards, intent, state):
    """Clicks, novel clicks, diversity; agreement with the user and with the session.

    The intent at the first slate of the last session is held against the propensity,
    and that at the last slate of each session against who seeks in it.
    """

    def agree(x, y):
        x, y = x.ravel() - jnp.mean(x), y.ravel() - jnp.mean(y)
        scale = jnp.maximum(jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2)), 1e-9)
        # What hardly varies says nothing.
        return jnp.where(jnp.std(x) > 1e-4, jnp.sum(x * y) / scale, 0.0)

    first, last = slice(-SLATES, None, SLATES), slice(SLATES - 1, None, SLATES)
    seeking = state.seeking.astype(jnp.float32)
    both = (
        agree(intent[:, first], state.propensity[:, first]),
        agree(intent[:, last], seeking[:, last]),
    )
    return jnp.concatenate([jnp.mean(rewards, (0, 1)), jnp.stack(both)])


def reference(made, how, key):
    """The best items for the next slate, by what is known of the session."""
    come, key = jax.random.split(key)
    state, _ = world.reset(made, come)
    mean = made.alpha / (made.alpha + made.beta)

    def show(carry, click):
        state, belief = carry
        past, now = world.infer(belief)
        session = jax.nn.sigmoid(
            jnp.log(mean / (1 - mean)) + belief.evidence[1] - belief.evidence[0]
        )
        seeks = state.seeking.astype(jnp.float32)
        thought = jnp.stack([jnp.float32(mean), past, session, now, seeks])[how]
        slate = world.greedy(made, state, thought, number=SHOWN)
        novel = world.novelty(made, state)[slate]
        after, clicks, total, _ = world.step(made, state, slate, click)
        rewards = total, jnp.sum(clicks * novel), world.diversity(made, slate)
        belief = world.observe(made, state, belief, slate, clicks)
        return (after, belief), (jnp.stack(rewards), thought, state)

    keys = jax.random.split(key, SESSIONS * SLATES)
    return jax.lax.scan(show, (state, world.prior(made)), keys)[1]


REFERENCES = (
    "exact, mean user", "exact, past sessions", "exact, this session",
    "exact, both", "exact, told who seeks",
)  # fmt: skip


def main(config: Config) -> dict:
    """Prints the table; returns columns by row, ``[seeds, 5]``."""
    options = {"alpha": config.alpha, "beta": config.beta, "slates": SLATES}
    made = world.build(jax.random.key(0), **options)
    keys = jax.random.split(jax.random.key(1), config.tuning + config.seeds)
    judged = keys[config.tuning :]
    print(
        "| policy | rate, weight | clicks a slate | seeds | novel | diversity "
        "| intent and user | intent and session |"
    )
    print("|---|---|---|---|---|---|---|---|")
    kept = {}
    for how, name in enumerate(REFERENCES):

        def judge(key, how=how):
            play = partial(reference, made, how)
            # The users on whom the learned rows are judged.
            test, _, _ = jax.random.split(key, 3)
            return measure(*jax.vmap(play)(jax.random.split(test, config.judged)))

        kept[name] = np.asarray(jax.jit(jax.vmap(judge))(judged))
        tell(name, "–", kept[name])
    run = partial(learn, config, made)
    for place in (5, 4, 3):
        run = jax.vmap(run, [0 if i == place else None for i in range(6)])
    run = jax.jit(run)
    for name, (inputs, levels, critics) in ROWS.items():
        mask = jnp.zeros(6).at[jnp.array(inputs, int)].set(1.0)
        settings = jnp.array(config.rates), jnp.array(config.weights)
        found = run(mask, jnp.float32(levels), critics == 1, *settings, keys)
        clicks = np.asarray(found)[:, :, : config.tuning, 0].mean(-1)
        at = np.unravel_index(clicks.argmax(), clicks.shape)
        kept[name] = np.asarray(found)[at][config.tuning :]
        chosen = f"{config.rates[at[0]]:g}, {config.weights[at[1]]:g}"
        tell(name, chosen, kept[name])
    if config.picture is not None:
        draw(config, kept)
    return kept


def tell(name, chosen, cells):
    """A row of the table."""
    clicks, novel, diverse, user, session = cells.mean(0)
    each = " ".join(f"{x:.2f}" for x in cells[:, 0])
    print(
        f"| {name} | {chosen} | {clicks:.3f} ± {cells[:, 0].std():.3f} | {each} | "
        f"{novel:.3f} | {diverse:.3f} | {user:.2f} | {session:.2f} |",
        flush=True,
    )


def draw(config, kept):
    """Clicks of each row, a dot a seed; exact references are hollow."""
    with picture(config.picture, (7, 3.4)) as figure:
        panel = figure.subplots()
        place = np.arange(len(kept))[::-1]
        for height, (name, cells) in zip(place, kept.items(), strict=True):
            fill = "w" if name in REFERENCES else "C0"
            x, y = cells[:, 0], np.full(len(cells), height)
            panel.plot(x, y, "o", color=fill, mec="C0", ms=5)
        panel.set(xlabel="clicks a slate", yticks=place, yticklabels=list(kept))
        panel.grid(axis="x", lw=0.4)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config, description=__doc__))
