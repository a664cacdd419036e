"""A site of linked pages: a goal asks for features, and a click may go astray.

A page has a few features and a few links. Action ``l`` follows the page's link ``l``;
with probability ``stray`` it leads to a page drawn from all instead. A goal is a set of
features, and a page fulfils it that has them all.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import require_shape
from jaxlib_guidance.types import Array, pytree_dataclass


@pytree_dataclass
class Site:
    """Pages ``P``, features ``F`` and links ``L`` a page.

    Attributes:
      links: Page that each link leads to, int32 ``[P, L]``.
      features: Whether a page has a feature, bool ``[P, F]``.
      stray: Probability that a click goes astray, scalar in [0, 1].
    """

    links: Array
    features: Array
    stray: Array | float


def build(
    key: Array,
    *,
    pages: int = 60,
    links: int = 4,
    features: int = 8,
    stray: float | Array = 0.1,
) -> Site:
    """Draws a site in which every page can be reached from every other.

    Each page's first link goes around one circle of all pages, so that none is cut off;
    the others are drawn evenly. Each feature is had by half of the pages, drawn evenly.

    Args:
      key: A typed key.
      pages: Number of pages, at least 2.
      links: Links of a page, at least 1.
      features: Number of features.
      stray: Probability that a click goes astray, in [0, 1].

    Returns:
      The site.

    Raises:
      ValueError: Too few pages or links.
    """
    for name, value, least in (("pages", pages, 2), ("links", links, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}")
    around, others, had = jax.random.split(key, 3)
    circle = jax.random.permutation(around, pages)
    first = jnp.zeros(pages, jnp.int32).at[circle].set(jnp.roll(circle, -1))
    rest = jax.random.randint(others, (pages, links - 1), 0, pages)
    which = jax.random.uniform(had, (pages, features))
    has = which < jnp.median(which, 0)
    return Site(jnp.concatenate([first[:, None], rest], 1), has, stray)


def reset(site: Site, key: Array) -> tuple[Array, Array]:
    """A page drawn evenly.

    Args:
      site: The world.
      key: A typed key.

    Returns:
      The page's number, int32, and its features, bool ``[F]``.
    """
    page = jax.random.randint(key, (), 0, len(site.links))
    return page, jnp.asarray(site.features)[page]


def step(
    site: Site, state: Array, action: Array, key: Array
) -> tuple[Array, Array, Array, Array]:
    """Follows a link; what pays is a goal's matter, so the reward is 0.

    Args:
      site: The world.
      state: Number of the page.
      action: Number of the link.
      key: A typed key.

    Returns:
      The next page's number, its features ``[F]``, 0 and False.
    """
    lost, where = jax.random.split(key)
    there, _ = reset(site, where)
    aim = jnp.asarray(site.links)[state, action]
    page = jnp.where(jax.random.uniform(lost) < site.stray, there, aim)
    features = jnp.asarray(site.features)[page]
    return page, features, jnp.zeros(()), jnp.zeros((), bool)


def fulfilled(site: Site, goal: Array) -> Array:
    """Which pages have all features of a goal.

    Args:
      site: The world.
      goal: Which features are asked for, bool ``[F]``.

    Returns:
      Bool ``[P]``.

    Raises:
      ValueError: Another shape.
    """
    require_shape("goal", goal, jnp.shape(site.features)[1:])
    return jnp.all(site.features | ~jnp.asarray(goal, bool), -1)


def success(site: Site, goal: Array, policy: Array, clicks: int) -> Array:
    """Probability that a policy sees a page that fulfils a goal, in time.

    Args:
      site: The world.
      goal: Which features are asked for, bool ``[F]``.
      policy: Probability of each link, ``[P, L]``.
      clicks: Most clicks.

    Returns:
      Float32 ``[P]``, from each first page; 1 where the first one fulfils it.
    """
    require_shape("policy", policy, jnp.shape(site.links))
    return _back(site, goal, clicks, lambda each: jnp.sum(policy * each, -1))


def solve(site: Site, goal: Array, clicks: int) -> Array:
    """Largest probability to see a page that fulfils a goal, in time.

    ``V_k(p) = max_l (1 - stray) V_{k-1}(link_l) + stray mean V_{k-1}``, and 1 where the
    goal is fulfilled.

    Args:
      site: The world.
      goal: Which features are asked for, bool ``[F]``.
      clicks: Most clicks.

    Returns:
      Float32 ``[P]``, from each first page.
    """
    return _back(site, goal, clicks, lambda each: jnp.max(each, -1))


def _back(site, goal, clicks, choose):
    there = fulfilled(site, goal)

    def click(value, _):
        each = (1 - site.stray) * value[site.links] + site.stray * jnp.mean(value)
        return jnp.where(there, 1.0, choose(each)), None

    return jax.lax.scan(click, there.astype(jnp.float32), length=clicks)[0]
