"""A site of linked pages: a goal asks for features, and a click may go astray.

A page has a few features and a few links. Action ``l`` follows the page's link ``l``;
with probability ``stray`` it leads to a page drawn from all instead. A goal is a set of
features, and a page fulfils it that has them all.
"""

import jax
import jax.numpy as jnp

from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.types import Array, pytree_dataclass
from jaxlib_guidance.worlds._checks import require_chance, require_index, require_number
from jaxlib_guidance.worlds._picture import disc, line, paper


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
      features: Number of features, at least 1.
      stray: Probability that a click goes astray, in [0, 1].

    Returns:
      The site.

    Raises:
      ValueError: Too few pages, links or features, ``stray`` that is no probability.
    """
    for name, value, least in (
        ("pages", pages, 2),
        ("links", links, 1),
        ("features", features, 1),
    ):
        require_number(name, value, least)
    require_chance("stray", stray)
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

    Raises:
      ValueError: A page or a link that the site has not.
    """
    pages, links = jnp.shape(site.links)
    require_index("state", state, pages)
    require_index("action", action, links)
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

    Raises:
      ValueError: Another shape, fewer than 0 clicks, a policy that is no probability.
    """
    require_shape("policy", policy, jnp.shape(site.links))
    require_chance("policy", policy)
    if known_false(lambda p: abs(p.sum(-1) - 1) < 1e-3, policy):
        raise ValueError("policy has rows that do not sum to 1; expected probabilities")
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

    Raises:
      ValueError: Another shape, fewer than 0 clicks.
    """
    return _back(site, goal, clicks, lambda each: jnp.max(each, -1))


def _back(site, goal, clicks, choose):
    require_number("clicks", clicks, 0)
    require_chance("stray", site.stray)
    there = fulfilled(site, goal)

    def click(value, _):
        each = (1 - site.stray) * value[site.links] + site.stray * jnp.mean(value)
        return jnp.where(there, 1.0, choose(each)), None

    return jax.lax.scan(click, there.astype(jnp.float32), length=clicks)[0]


def render(
    site: Site, page: Array | int, goal: Array | None = None, *, size: int = 128
) -> Array:
    """Pages on a circle with their links; where one is, in blue, its links in orange.

    Args:
      site: The world.
      page: Number of the page.
      goal: Which features are asked for, bool ``[F]``: pages that have them are green;
        None for none.
      size: Pixels of a side.

    Returns:
      Float32 ``[size, size, 3]`` in [0, 1].
    """
    links = jnp.asarray(site.links)
    pages = len(links)
    require_index("page", page, pages)
    angle = 2 * jnp.pi / pages * jnp.arange(pages, dtype=jnp.float32)
    at = 0.5 + 0.45 * jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
    there = jnp.zeros(pages, bool) if goal is None else fulfilled(site, goal)
    green, grey = jnp.array([0.2, 0.65, 0.3]), jnp.array([0.45, 0.45, 0.45])
    blank, _, _ = paper(size)

    def link(picture, ends):
        return line(picture, at[ends[0]], at[ends[1]], 1 / size, (0.86,) * 3), None

    def own(picture, to):
        return line(picture, at[page], at[to], 2 / size, (0.95, 0.6, 0.1)), None

    def dot(picture, one):
        color = jnp.where(there[one], green, grey)
        return disc(picture, at[one], 0.45 / pages + 1 / size, color), None

    both = jnp.stack([jnp.repeat(jnp.arange(pages), links.shape[1]), links.ravel()], 1)
    picture, _ = jax.lax.scan(link, blank, both)
    picture, _ = jax.lax.scan(own, picture, links[page])
    picture, _ = jax.lax.scan(dot, picture, jnp.arange(pages))
    return disc(picture, at[page], 0.6 / pages + 2 / size, (0.2, 0.3, 0.9))
