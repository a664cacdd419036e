"""The site against simulated clicks and, without straying, breadth-first search."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import site_graph

SITE = site_graph.build(jax.random.key(0), pages=12, links=3, features=4)


def test_every_page_is_reached_and_features_are_had_by_half():
    links = np.asarray(SITE.links)
    reached = np.eye(12, dtype=bool)
    for _ in range(12):
        reached |= np.any(reached[links], 1)
    assert reached.all()
    np.testing.assert_array_equal(np.sum(SITE.features, 0), 6)


def test_without_straying_the_optimum_is_the_shortest_way():
    site = dataclasses.replace(SITE, stray=0.0)
    goal = np.array([True, True, False, False])
    there = np.asarray(SITE.features)[:, :2].all(1)
    np.testing.assert_array_equal(site_graph.fulfilled(site, goal), there)
    reached = there
    for clicks in range(4):
        found = site_graph.solve(site, goal, clicks)
        np.testing.assert_array_equal(found, reached.astype(float))
        reached = there | reached[np.asarray(SITE.links)].any(1)


def test_success_is_what_clicks_find():
    goal, clicks, number = np.array([True, False, True, False]), 3, 20_000
    policy = np.random.default_rng(0).dirichlet(np.ones(3), 12).astype(np.float32)

    def browse(key):
        begin, key = jax.random.split(key)
        page, seen = site_graph.reset(SITE, begin)
        found = [jnp.all(seen | ~goal)]
        for each in jax.random.split(key, clicks):
            choose, move = jax.random.split(each)
            link = jax.random.categorical(choose, jnp.log(policy)[page])
            page, seen, reward, ended = site_graph.step(SITE, page, link, move)
            found.append(jnp.all(seen | ~goal))
        return jnp.any(jnp.stack(found)), reward, ended

    found, reward, ended = jax.jit(jax.vmap(browse))(
        jax.random.split(jax.random.key(1), number)
    )
    assert not reward.any()
    assert not ended.any()
    want = site_graph.success(SITE, goal, policy, clicks)
    np.testing.assert_allclose(found.mean(), want.mean(), atol=0.012)
    best = site_graph.solve(SITE, goal, clicks)
    assert bool((best >= want - 1e-6).all())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: site_graph.build(jax.random.key(0), pages=1), "pages is 1"),
        (lambda: site_graph.build(jax.random.key(0), links=0), "links is 0"),
        (lambda: site_graph.solve(SITE, np.ones(3, bool), 2), "goal has shape"),
        (
            lambda: site_graph.success(SITE, np.ones(4, bool), np.ones(3), 2),
            "policy has shape",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()
