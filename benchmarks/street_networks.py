"""Networks that forecast where somebody in a street goes, and tell what people do."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlib_guidance.worlds import street

SEEN, AHEAD, PEOPLE, UNITS = 8, 12, 6, 32
"""Steps seen and forecast, people of a scene, units of a recurrent state."""


def linear(key: Any, entries: int, outputs: int) -> Any:
    kernel = jax.random.normal(key, (entries, outputs)) / entries**0.5
    return {"w": kernel, "b": jnp.zeros(outputs)}


def apply(layer: Any, x: Any) -> Any:
    return x @ layer["w"] + layer["b"]


def encoded(layers: Any, x: Any) -> Any:
    """States ``[..., T, UNITS]`` of a gated recurrent unit along ``x [..., T, F]``."""

    def one(h, x):
        z, r = jnp.split(jax.nn.sigmoid(apply(layers["gates"], _join(x, h))), 2, -1)
        new = jnp.tanh(apply(layers["new"], _join(x, r * h)))
        h = (1 - z) * h + z * new
        return h, h

    first = jnp.zeros((*x.shape[:-2], UNITS))
    return jnp.moveaxis(jax.lax.scan(one, first, jnp.moveaxis(x, -2, 0))[1], 0, -2)


def _join(*parts):
    return jnp.concatenate(parts, axis=-1)


def recurrent(key: Any, entries: int) -> Any:
    one, two = jax.random.split(key)
    return {
        "gates": linear(one, entries + UNITS, 2 * UNITS),
        "new": linear(two, entries + UNITS, UNITS),
    }


def new_forecaster(key: Any) -> Any:
    """Parameters of `forecast`, which at first says constant velocity."""
    keys = jax.random.split(key, 7)
    last = jax.tree.map(jnp.zeros_like, linear(keys[6], 2 * UNITS, 2 * AHEAD))
    return {
        "encode": recurrent(keys[0], 4 + street.ACTIONS),
        "gate": [linear(keys[1], 2 * UNITS, UNITS), linear(keys[2], UNITS, 1)],
        "tell": linear(keys[3], 2 * UNITS, UNITS),
        "read": [linear(keys[4], 2 * UNITS, 2 * UNITS), last],
    }


def forecast(params: Any, places: Any, actions: Any, there: Any) -> tuple[Any, Any]:
    """Where the first person goes ``[12, 2]``, and the gates of the others ``[5]``.

    Args:
      params: Parameters.
      places: Places ``[8, 6, 2]``; the person who is asked for is the first.
      actions: What is known of the actions of the last seven steps ``[7, 6, 4]``; 0 is
        nothing.
      there: 1 for each of the others who is looked at, else 0, ``[5]``.
    """
    now = places[-1, 0]
    along = now - places[0, 0]
    along = along / jnp.sqrt(jnp.sum(along**2) + 1e-4)
    axes = jnp.stack([along, along[::-1] * jnp.array([-1.0, 1.0])])
    turned = (places - now) @ axes.T
    moves = jnp.diff(turned, axis=0)
    seen = _join(3 * moves, turned[1:] / 4, actions)
    state = encoded(params["encode"], jnp.swapaxes(seen, 0, 1))[:, -1]
    me, others = jnp.broadcast_to(state[0], state[1:].shape), state[1:]
    gate = jnp.tanh(apply(params["gate"][0], _join(me, others)))
    gate = jax.nn.sigmoid(apply(params["gate"][1], gate))[:, 0]
    told = jnp.tanh(apply(params["tell"], _join(me, others)))
    heard = jnp.sum((there * gate)[:, None] * told, axis=0) / len(others)
    read = jax.nn.silu(apply(params["read"][0], _join(state[0], heard)))
    off = apply(params["read"][1], read).reshape(AHEAD, 2)
    would = jnp.arange(1, AHEAD + 1)[:, None] * moves[-1, 0]
    return now + (would + off) @ axes, gate


def descend(key: Any, params: Any, loss: Any, rate: Any, updates: int) -> Any:
    """Parameters after Adam's steps down ``loss(params, key)``."""
    tx = optax.scale_by_adam()

    def update(carry, given):
        params, state = carry
        key, share = given
        change, state = tx.update(jax.grad(loss)(params, key), state)
        step = lambda p, c: p - rate * share * c  # noqa: E731
        return (jax.tree.map(step, params, change), state), None

    keys = jax.random.split(key, updates)
    shares = 0.5 + 0.5 * jnp.cos(jnp.pi * jnp.arange(updates) / updates)
    return jax.lax.scan(update, (params, tx.init(params)), (keys, shares))[0][0]


def train(
    key: Any, scenes: Any, actions: Any, there: Any, rate: Any, updates: int
) -> Any:
    """A forecaster from scenes, in each of which any of the people may be asked for."""
    first, rest = jax.random.split(key)
    batch = 64

    def loss(params, key):
        which, whom = jax.random.split(key)
        i = jax.random.randint(which, (batch,), 0, len(actions))
        whom = jax.random.randint(whom, (batch,), 0, PEOPLE)

        def one(places, actions, whom):
            places, actions = (jnp.roll(x, -whom, axis=1) for x in (places, actions))
            path, _ = forecast(params, places[:SEEN], actions, there)
            return jnp.mean((path - places[SEEN:, 0]) ** 2)

        return jnp.mean(jax.vmap(one)(scenes[i], actions[i], whom))

    return descend(rest, new_forecaster(first), loss, rate, updates)


def recognise(params: Any, places: Any) -> Any:
    """Logits of everybody's action in each of the last seven steps ``[7, 6, 4]``.

    From places alone: each one's move, and where the nearest other is.
    """
    apart = places[:, None] - places[:, :, None]
    far = jnp.sum(apart**2, -1) + 1e6 * jnp.eye(PEOPLE)
    near = jnp.argmin(far, axis=2)[..., None, None]
    nearest = jnp.take_along_axis(apart, near, axis=2)[:, :, 0]
    seen = _join(3 * jnp.diff(places, axis=0), nearest[1:] / 4)
    states = encoded(params["encode"], jnp.swapaxes(seen, 0, 1))
    return jnp.swapaxes(apply(params["read"], states), 0, 1)


def train_recogniser(key: Any, scenes: Any, labels: Any, updates: int) -> Any:
    """A recogniser from places ``[M, 20, 6, 2]`` and actions ``[M, 7, 6]``."""
    one, two, rest = jax.random.split(key, 3)
    params = {"encode": recurrent(one, 4), "read": linear(two, UNITS, street.ACTIONS)}

    def loss(params, key):
        i = jax.random.randint(key, (64,), 0, len(labels))
        logits = jax.vmap(lambda x: recognise(params, x[:SEEN]))(scenes[i])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[i]).mean()

    return descend(rest, params, loss, 3e-3, updates)
