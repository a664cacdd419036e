"""The array tree against objects and pointers, and on the game of numbers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import uct_scores, value_tree

BRANCH, DEPTH = 3, 4
TABLE = np.random.default_rng(0).uniform(0, 0.85, BRANCH ** (DEPTH + 1)).astype("f4")


def expand(key, state):
    place, depth = state
    return place * BRANCH + jnp.arange(BRANCH), jnp.full(BRANCH, depth + 1)


def value_of(place, depth):
    return (place * 7 + depth * 31) % len(TABLE)


def value(state):
    return jnp.asarray(TABLE)[value_of(*state)]


def ended(state):
    return state[1] == DEPTH


def follow(key, state):
    return jax.tree.map(lambda x: x[1], expand(key, state))


class Node:
    """The same search with objects, as one would write it for one problem."""

    def __init__(self, place, depth, parent, order):
        self.place, self.depth, self.parent, self.order = place, depth, parent, order
        self.value = float(TABLE[value_of(place, depth)]) if parent else 0.0
        self.visits, self.children = 0, []

    def score(self, child, c):
        if child.visits == 0:
            return child.value + 1
        bonus = math.sqrt(2 * math.log(self.visits) / child.visits)
        return child.value + c * bonus


def reference(rounds, c, steps, mix, stop):
    nodes = [Node(0, 0, None, 0)]
    for number in range(rounds):
        node = nodes[0]
        while node.children:
            node = max(node.children, key=lambda x, n=node: n.score(x, c))
        if node.value >= stop:
            return nodes, node, number
        if node.depth < DEPTH:
            for i in range(BRANCH):
                place = node.place * BRANCH + i
                nodes.append(Node(place, node.depth + 1, node, len(nodes)))
            node.children = nodes[-BRANCH:]
            best = max(node.children, key=lambda x: x.value)
            place, depth, most = best.place, best.depth, 0.0
            if depth == DEPTH:
                most = best.value
            for _ in range(steps):
                if depth == DEPTH:
                    break
                place, depth = place * BRANCH + 1, depth + 1
                most = max(most, float(TABLE[value_of(place, depth)]))
            best.value = (1 - mix) * best.value + mix * most
            best.visits += 1
        while node is not None:
            node.visits += 1
            count = sum(x.visits for x in node.children)
            if count:
                node.value = sum(x.visits * x.value for x in node.children) / count
            node = node.parent
    ends = [x for x in nodes if x.depth == DEPTH]
    return nodes, max(ends or nodes, key=lambda x: x.value), rounds


@pytest.mark.parametrize(
    ("c", "stop", "rounds"), [(0.7, 2.0, 25), (0.0, 0.8, 25), (1.4, 0.7, 3)]
)
def test_equals_objects(c, stop, rounds):
    options = {"rounds": rounds, "c": c, "steps": 2, "mix": 0.4, "stop": stop}
    root = jnp.int32(0), jnp.int32(0)

    def run(key):
        functions = expand, value, ended
        return value_tree(key, root, *functions, follow=follow, **options)

    tree = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 2))
    tree = jax.tree.map(lambda x: np.asarray(x[1]), tree)
    nodes, best, used = reference(**options)
    assert tree.rounds == used
    assert tree.best == best.order
    assert tree.found == (best.value >= stop)
    count = len(nodes)
    assert np.all(np.isneginf(tree.values[count:]))
    np.testing.assert_array_equal(tree.states[0][:count], [x.place for x in nodes])
    parents = [-1 if x.parent is None else x.parent.order for x in nodes]
    np.testing.assert_array_equal(tree.parent[:count], parents)
    np.testing.assert_array_equal(tree.visits[:count], [x.visits for x in nodes])
    np.testing.assert_allclose(tree.values[:count], [x.value for x in nodes], 1e-5)
    # Visits of a node are those of its children, but for the one that added them.
    first = tree.first[0]
    assert tree.visits[0] == tree.visits[first : first + BRANCH].sum()


NUMBERS, TARGET = (3, 5, 7, 2), 44


def combine(numbers):
    """All ways to take two numbers and put back their sum, difference or product."""
    out = []
    for i, j in itertools.combinations(range(len(numbers)), 2):
        rest = [x for k, x in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        out += [(*rest, x) for x in (a + b, abs(a - b), a * b)]
    return out


def test_exact_values_find_the_only_solution():
    """Four numbers to a target: values say whether it can still be reached."""
    levels = [[NUMBERS]]
    for _ in range(3):
        levels.append([x for numbers in levels[-1] for x in combine(numbers)])
    ends = [numbers == (TARGET,) for numbers in levels[-1]]
    reach, width = [np.array(ends)], [18, 9, 3]
    for number in width[::-1]:
        reach.insert(0, reach[0].reshape(-1, number).any(1))
    assert reach[0][0]
    assert np.mean(ends) < 0.05
    # One table of values by depth; missing steps of later depths are worth nothing.
    table = np.zeros((4, len(ends)), np.float32)
    for depth, row in enumerate(reach):
        table[depth, : len(row)] = row * (depth + 1) / 4
    widths = jnp.array([*width, 1])

    def spread(key, state):
        place, depth = state
        index = jnp.arange(18)
        step = jnp.minimum(index, widths[depth] - 1)
        return place * widths[depth] + step, jnp.full(18, depth + 1)

    tree = value_tree(
        jax.random.key(0),
        (jnp.int32(0), jnp.int32(0)),
        spread,
        lambda state: jnp.asarray(table)[state[1], state[0]],
        lambda state: state[1] == 3,
        rounds=60,
        c=0.0,
        stop=1.0,
    )
    assert bool(tree.found)
    # A step without a visit comes before one that was good: at most each level's.
    assert 3 <= int(tree.rounds) <= 18 + 18 + 3
    assert bool(reach[3][int(tree.states[0][tree.best])])


def test_without_exploration_it_is_greedy():
    scores = uct_scores(np.array([0.2, 0.9]), np.array([3, 1]), np.array(4), c=0.0)
    np.testing.assert_allclose(scores, [0.2, 0.9], rtol=1e-6)


def test_refuses():
    root = jnp.int32(0), jnp.int32(0)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="rounds is 0; expected at least 1"):
        value_tree(key, root, expand, value, ended, rounds=0)
    with pytest.raises(ValueError, match=r"mix is 2; expected a number in \[0, 1\]"):
        value_tree(key, root, expand, value, ended, mix=2)
    with pytest.raises(ValueError, match="as many next steps of each"):
        value_tree(key, root, lambda k, s: s, value, ended)


def test_what_is_not_known_is_not_good_and_the_deeper_of_equals_is_the_answer():
    key, steps = jax.random.key(0), jnp.array([1.0, 2.0])

    def expand(key, state):
        return state + steps

    def unknown(state):
        return jnp.where(state == 1, jnp.nan, 0.8)

    over = lambda state: state >= 1  # noqa: E731
    made = value_tree(key, jnp.float32(0), expand, unknown, over, rounds=1)
    assert made.best == 2
    assert not np.isnan(made.values).any()
    # The root has the value of the one child that was visited.
    good = lambda state: jnp.where(state == 2, 0.95, 0.1)  # noqa: E731
    never = lambda state: jnp.bool_(False)  # noqa: E731
    made = value_tree(key, jnp.float32(0), expand, good, never, rounds=1)
    assert (made.best, made.found) == (2, False)
    with pytest.raises(ValueError, match=r"float32.*leaves .K, .S. for .'int32"):
        value_tree(key, 0, expand, good, never)
    with pytest.raises(ValueError, match="stop is nan"):
        value_tree(key, jnp.float32(0), expand, good, never, stop=np.nan)
