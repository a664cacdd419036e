"""Corruption against all that it may do, enumerated."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import corrupt

DRAWS = 3000


def outcomes(kind, own, foreign):
    """All damaged trajectories of lists, as often as they are drawn."""
    n = len(own)
    match kind:
        case "truncate":
            return [own[: n - k] for k in (1, 2, 3) if k < n]
        case "redundant":
            return [own[: i + 1] + own[i:] for i in range(n - 1)]
        case "wrong_end":
            return [own[:k] + own[-1:] for k in range(1, n - 1)]
        case "swap":
            return [
                [*own[:i], x, *own[i + 1 :]] for i in range(n - 1) for x in foreign[:-1]
            ]


@pytest.mark.parametrize("kind", ["truncate", "redundant", "swap", "wrong_end"])
def test_all_outcomes_and_no_others_are_drawn_evenly(kind):
    size, own, foreign = 7, [1, 2, 3, 4, 9], [5, 6, 9]
    pad = lambda x: jnp.array(x + [0] * (size - len(x)))  # noqa: E731
    steps = {"a": pad(own), "b": jnp.stack([pad(own), -pad(own)], -1)}
    other = {"a": pad(foreign), "b": jnp.stack([pad(foreign), -pad(foreign)], -1)}
    more = (other, 3) if kind == "swap" else ()

    @jax.jit
    @jax.vmap
    def draw(key):
        return corrupt(key, steps, 5, *more, kind=kind)

    found, lengths = draw(jax.random.split(jax.random.key(0), DRAWS))
    np.testing.assert_array_equal(found["b"][..., 0], found["a"])
    np.testing.assert_array_equal(found["b"][..., 1], -found["a"])
    rows = zip(np.asarray(found["a"]), np.asarray(lengths), strict=True)
    counts = Counter(tuple(row[:n]) for row, n in rows)
    every = outcomes(kind, own, foreign)
    assert set(counts) == {tuple(x) for x in every}
    share = np.array(list(counts.values())) / DRAWS
    np.testing.assert_allclose(share, 1 / len(every), atol=0.03)


def test_the_shortest_keep_a_step():
    keys = jax.random.split(jax.random.key(1), 50)
    draw = jax.vmap(lambda key: corrupt(key, jnp.arange(4), 2, kind="truncate"))
    np.testing.assert_array_equal(draw(keys).length, 1)


@pytest.mark.parametrize(
    ("length", "more", "kind", "match"),
    [
        (3, (), "reverse", "kind is 'reverse'; expected one of truncate"),
        (1, (), "truncate", "length is 1"),
        (2, (), "wrong_end", r"length is 2; expected a number in \[3"),
        (5, (), "redundant", r"length is 5; expected a number in \[2, 4\]"),
        (3, (), "swap", "other and other_length are missing"),
        (3, (np.arange(5), 3), "truncate", "other and other_length are given"),
        (3, (np.arange(4), 3), "swap", "other has shapes"),
        (3, (np.arange(5), 1), "swap", "other_length is 1"),
        (3, (np.arange(5), 6), "swap", "other_length is 6"),
    ],
)
def test_bad_arguments(length, more, kind, match):
    with pytest.raises(ValueError, match=match):
        corrupt(jax.random.key(0), np.arange(5), length, *more, kind=kind)
    with pytest.raises(ValueError, match="first axes"):
        corrupt(jax.random.key(0), (np.ones(3), np.ones(4)), 3, kind="truncate")
