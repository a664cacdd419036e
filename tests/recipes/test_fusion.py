"""The benchmark of fusion: its world is as it says, and the tables have their lines."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fusion(benchmarks):
    import fusion

    return fusion


def test_labels_are_the_chain_and_the_lost_are_marked(fusion):
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.permutation(np.arange(200) % 10))
    x = jnp.asarray(rng.normal(size=(200, 3, 32)), jnp.float32)
    x = x.at[:, :, 0].set(y[:, None])  # A view says what it is of.
    noise, keys = jnp.full((3, 32), 1e3), jax.random.split(jax.random.key(0), 3)
    for kind, key in zip(("items", "views", "digits"), keys, strict=True):
        lost = jnp.array(fusion.KINDS[kind])
        some, labels, gone = fusion.draw((x, y), noise, lost, 400, key)
        assert abs(float((labels[:, 1:] == labels[:, :-1]).mean()) - 0.7) < 0.03
        assert abs(float(gone.mean()) - 0.3) < 0.04
        says = some[..., 0]
        assert (says == labels[..., None])[~gone].all()
        if kind == "digits":
            assert abs(float((says == labels[..., None])[gone].mean()) - 0.1) < 0.03
        else:
            assert (jnp.abs(some).max(-1) > 10)[gone].all()
        assert (gone == gone[:, :1]).all() == (kind == "views")


def test_the_exact_chain_is_what_enumeration_gives(fusion):
    log_p = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (1, 4, 10)))
    found = jax.nn.softmax(fusion.smoothed(log_p))[0]
    p, total = np.exp(np.asarray(log_p[0], np.float64)), np.zeros((4, 10))
    for path in itertools.product(range(10), repeat=4):
        stays = [a == b for a, b in itertools.pairwise(path)]
        mass = np.prod([0.7 if stay else 0.3 / 9 for stay in stays])
        mass *= np.prod(p[np.arange(4), path])
        total[np.arange(4), path] += mass
    np.testing.assert_allclose(found, total / total.sum(1, keepdims=True), atol=1e-5)


def test_the_tables_have_all_rows(fusion):
    config = fusion.Config(seeds=2, search=1, rates=(0.01,), updates=40, sequences=40)
    text = fusion.main(config)
    without, context = text.split("context True")
    for row in fusion.ROWS:
        assert f"| {row} |" in without
        assert (f"| {row} |" in context) == (row != "exact chain")
    (line,) = (x for x in without.splitlines() if x.startswith("| mean, knows |"))
    none, items = (float(cell.split()[0]) for cell in line.split("|")[2:4])
    assert none > 75
    assert items > 60
