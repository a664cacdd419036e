"""A tree of reasoning steps, searched by their values: arrays of fixed size."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlib_guidance.policy._ranges import require_range
from jaxlib_guidance.policy.select._tree_search import uct_scores
from jaxlib_guidance.reduce import divide
from jaxlib_guidance.types import Array, PyTree


class ValueTree(NamedTuple):
    """What a search has seen, with room for ``M`` nodes; the root is node 0.

    Attributes:
      states: State of each node, a pytree of leaves ``[M, ...]``.
      parent: Parent of each node, int32 ``[M]``; -1 for the root.
      first: First child of each node, int32 ``[M]``, its others follow; 0 for none.
      values: Value of each node, float32 ``[M]``; ``-inf`` where there is no node yet.
      visits: Number of visits of each node, int32 ``[M]``.
      ended: Whether each node ends the reasoning, bool ``[M]``.
      best: Node that is the answer, int32: the one at which the search stopped; else
        the end of the greatest value, or without an end the node of it.
      found: Whether the search stopped at a node of value ``stop``, bool.
      rounds: Number of rounds before that, int32.
    """

    states: PyTree
    parent: Array
    first: Array
    values: Array
    visits: Array
    ended: Array
    best: Array
    found: Array
    rounds: Array


def value_tree(
    key: Array,
    root: PyTree,
    expand: Callable[[Array, PyTree], PyTree],
    value: Callable[[PyTree], Array],
    ended: Callable[[PyTree], Array],
    *,
    follow: Callable[[Array, PyTree], PyTree] | None = None,
    rounds: int = 20,
    c: float = 0.7,
    steps: int = 3,
    mix: float = 0.5,
    stop: float = 0.9,
) -> ValueTree:
    """Searches a tree of steps by `uct_scores` of their values.

    A round goes down from the root to a leaf, by the best score; stops there if its
    value is ``stop`` or more; else adds the steps that may follow, with their values.
    From the best of these it goes on greedily, and what was best on the way is mixed
    into its value, ``v = (1 - mix) v + mix max v'``. Then the values of all above are
    ``sum N v / sum N`` over their children. A leaf that ends the reasoning counts one
    more visit and nothing else.

    Args:
      key: Typed key.
      root: State before the first step, a pytree of arrays; `jax.vmap` for a batch.
      expand: ``(key, state) -> states``, ``K`` next steps as leaves ``[K, ...]``.
      value: ``state -> scalar``, 0 to 1; NaN, which is not known, counts as 0.
      ended: ``state -> bool``, whether the reasoning has ended there.
      follow: ``(key, state) -> state``, one next step of a simulation; None for no
        simulation.
      rounds: Number of rounds; the tree has ``1 + rounds K`` nodes.
      c: Weight of exploration.
      steps: Number of steps of a simulation, at least 1.
      mix: Weight of the simulation, in [0, 1].
      stop: Value at which the search ends.

    Returns:
      The tree, of fixed size.

    Raises:
      ValueError: No rounds or steps, a mix outside [0, 1], a stop that is NaN, or next
        steps whose number differs or whose shapes or types are not the root's.

    Reference: ReST-MCTS*, Zhang et al., arXiv 2406.03816, its ``MCTS/mcts.py``, which
    breaks ties by chance, where the first is taken here, and of nodes that are no end
    the last; and whose answer, if none has the value to stop at, is the node of the
    greatest value, an end or not.
    """
    for name, number in (("rounds", rounds), ("steps", steps)):
        if number < 1:
            raise ValueError(f"{name} is {number}; expected at least 1")
    require_range("mix", mix, 0, 1)
    require_range("stop", stop, -jnp.inf)
    root = jax.tree.map(jnp.asarray, root)
    branch = _branch(jax.eval_shape(expand, key, root), root)
    size = 1 + rounds * branch

    def rows(x):
        return jnp.zeros((size, *x.shape), x.dtype).at[0].set(x)

    tree = ValueTree(
        states=jax.tree.map(rows, root),
        parent=jnp.full(size, -1, jnp.int32),
        first=jnp.zeros(size, jnp.int32),
        values=jnp.full(size, -jnp.inf).at[0].set(0.0),
        visits=jnp.zeros(size, jnp.int32),
        ended=jnp.zeros(size, bool).at[0].set(ended(root)),
        best=jnp.int32(0),
        found=jnp.bool_(False),
        rounds=jnp.int32(0),
    )
    offsets = jnp.arange(branch, dtype=jnp.int32)

    def worth(state):
        found = jnp.asarray(value(state), jnp.float32)
        return jnp.where(jnp.isnan(found), 0.0, found)

    def best_child(tree, node):
        places = tree.first[node] + offsets
        parts = tree.values[places], tree.visits[places], tree.visits[node]
        return places[jnp.argmax(uct_scores(*parts, c=c))]

    def simulate(key, state, own):
        """The greatest value on the way; an end keeps its own."""
        if follow is None:
            return own

        def step(carry, key):
            state, over, most = carry
            after = follow(key, state)
            most = jnp.where(over, most, jnp.maximum(most, worth(after)))
            state = jax.tree.map(lambda x, y: jnp.where(over, x, y), state, after)
            return (state, over | ended(state), most), None

        over = ended(state)
        start = state, over, jnp.where(over, own, 0.0)
        return jax.lax.scan(step, start, jax.random.split(key, steps))[0][2]

    def grow(tree, node, key):
        """The tree with the steps that may follow a leaf, the best of them tried."""
        one, two = jax.random.split(key)
        states = expand(one, jax.tree.map(lambda x: x[node], tree.states))
        values = jax.vmap(worth)(states)
        pick = jnp.argmax(values)
        chosen = jax.tree.map(lambda x: x[pick], states)
        most = simulate(two, chosen, values[pick])
        values = values.at[pick].set((1 - mix) * values[pick] + mix * most)
        first = 1 + jnp.sum(tree.first > 0, dtype=jnp.int32) * branch
        places = first + offsets
        return tree._replace(
            states=jax.tree.map(lambda x, y: x.at[places].set(y), tree.states, states),
            parent=tree.parent.at[places].set(node),
            first=tree.first.at[node].set(first),
            values=tree.values.at[places].set(values),
            visits=tree.visits.at[places[pick]].add(1),
            ended=tree.ended.at[places].set(jax.vmap(ended)(states)),
        )

    def back_up(tree, node):
        def up(carry):
            node, values, visits = carry
            visits = visits.at[node].add(1)
            places = tree.first[node] + offsets
            count = jnp.where(tree.first[node] > 0, visits[places], 0)
            count = count.astype(values.dtype)
            known = jnp.where(count > 0, values[places], 0.0)
            mean = divide(jnp.sum(known * count), jnp.sum(count))
            mean = jnp.where(jnp.sum(count) > 0, mean, values[node])
            return tree.parent[node], values.at[node].set(mean), visits

        start = node, tree.values, tree.visits
        _, values, visits = jax.lax.while_loop(lambda x: x[0] >= 0, up, start)
        return tree._replace(values=values, visits=visits)

    def go(tree):
        leaf = jax.lax.while_loop(
            lambda node: tree.first[node] > 0,
            lambda x: best_child(tree, x),
            jnp.int32(0),
        )
        found = tree.values[leaf] >= stop
        key_now = jax.random.fold_in(key, tree.rounds)
        after = grow(tree, leaf, key_now)
        skip = tree.ended[leaf]
        after = jax.tree.map(lambda x, y: jnp.where(skip, x, y), tree, after)
        after = back_up(after, leaf)
        after = jax.tree.map(lambda x, y: jnp.where(found, x, y), tree, after)
        best = jnp.where(found, leaf, tree.best)
        more = (~found).astype(jnp.int32)
        return after._replace(best=best, found=found, rounds=tree.rounds + more)

    tree = jax.lax.while_loop(lambda x: ~x.found & (x.rounds < rounds), go, tree)
    ends = jnp.where(tree.ended, tree.values, -jnp.inf)
    # A node has the value of its only child that was visited: the child is the answer.
    last = size - 1 - jnp.argmax(tree.values[::-1])
    best = jnp.where(jnp.any(tree.ended), jnp.argmax(ends), last).astype(jnp.int32)
    return tree._replace(best=jnp.where(tree.found, tree.best, best))


def _branch(states, root):
    """Number of next steps, the first axis of all leaves."""
    structures = [jax.tree.structure(x) for x in (states, root)]
    if structures[0] != structures[1]:
        raise ValueError(f"expand returns {structures[0]}; expected {structures[1]}")
    pairs = list(zip(jax.tree.leaves(states), jax.tree.leaves(root), strict=True))
    counts = {x.shape[:1] for x, _ in pairs}
    same = all((x.shape[1:], x.dtype) == (y.shape, y.dtype) for x, y in pairs)
    if not same or len(counts) != 1 or counts & {(), (0,)}:
        found = [f"{x.dtype}{x.shape}" for x, _ in pairs]
        shapes = [f"{y.dtype}{y.shape}" for _, y in pairs]
        raise ValueError(
            f"expand returns leaves {found}; expected as many next steps of each, "
            f"leaves [K, *S] for {shapes}"
        )
    return counts.pop()[0]
