"""A game of hidden roles against its rules in plain Python, and against listing it."""

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.policy import belief_shift
from jaxlib_guidance.worlds import hidden_role as world
from jaxlib_guidance.worlds import hidden_role_beliefs as exact

SIGHT, WORKS, FAKES = 0.7, 0.75, 0.3
GAME = world.build(sight=SIGHT, works=WORKS, fakes=FAKES)
BELIEFS = jax.jit(jax.vmap(lambda s, w: exact.beliefs(GAME, s, w)))
START = jax.jit(jax.vmap(lambda key: world.reset(GAME, key)[0]))


def some(number, seed=0):
    return START(jax.random.split(jax.random.key(seed), number))


def view(seen, guilty):
    """Chance of one look at a player."""
    task = FAKES if guilty else WORKS
    return {0: 1 - SIGHT, 1: SIGHT * task, 2: SIGHT * (1 - task)}[int(seen)]


@functools.cache
def chance(player, row, suspect):
    """Chance of what a player saw if the suspect is the impostor."""
    others = [j for j in range(4) if j != player]
    return np.prod([view(row[j], j == suspect) for j in others])


@functools.cache
def alibi(player, row):
    return np.mean([chance(player, row, j) for j in range(4) if j != player])


def plain(player, row):
    """Two words: first who was idle, then who was at a task."""
    others = [j for j in range(4) if j != player]
    said = [1 + j for j in others if row[j] == 2] + [
        5 + j for j in others if row[j] == 1
    ]
    return tuple([*said, 0, 0][:2])


def rows_of(player):
    for looks in itertools.product(range(3), repeat=3):
        row = list(looks)
        row.insert(player, 3)
        yield tuple(row)


def posterior(listener, seen, words):
    """Weights of all that may have been seen where plain ``words`` were heard."""
    weights = [0.0] * 4
    speakers = [s for s in range(4) if s != listener]
    heard = [
        [r for r in rows_of(s) if plain(s, r)[: len(words[s])] == words[s]]
        for s in speakers
    ]
    for j in range(4):
        if j == listener:
            continue
        for rows in itertools.product(*heard):
            p = chance(listener, tuple(seen[listener]), j)
            for s, row in zip(speakers, rows, strict=True):
                p *= alibi(s, row) if s == j else chance(s, row, j)
            weights[j] += p
    return np.array(weights) / sum(weights)


def plainly(seen, count):
    """Chance ``[4, 27]`` of each player's first ``count`` plain words."""
    told = [plain(s, seen[s])[:count] for s in range(4)]
    return np.array(
        [[float(plain(s, r)[:count] == told[s]) for r in rows_of(s)] for s in range(4)]
    ), told


def test_beliefs_are_what_listing_all_that_may_have_been_seen_gives():
    seen = np.asarray(some(4).seen)
    counts = [1, 2, 2, 2]
    told = [plainly(s, c) for s, c in zip(seen, counts, strict=True)]
    got = BELIEFS(seen, np.array([said for said, _ in told], np.float32))
    for row, want, (_, words), count in zip(got, seen, told, counts, strict=True):
        for listener in range(4) if count == 2 else (1,):
            expected = posterior(listener, want, words)
            np.testing.assert_allclose(row[listener], expected, rtol=2e-4, atol=1e-6)
    # Nothing said is nothing learnt.
    alone = jax.jit(lambda seen: exact.beliefs(GAME, seen))(seen[0])
    odds = [chance(2, tuple(seen[0, 2]), j) * (j != 2) for j in range(4)]
    np.testing.assert_allclose(alone[2], np.array(odds) / sum(odds), rtol=1e-5)
    np.testing.assert_array_equal(np.diagonal(alone), 0)
    # Chances of words are up to a factor, and of any type.
    said = np.array(told[0][0], np.float32)
    for factor in (1e-30, np.array([[1e25], [1e-25], [1e30], [1]], np.float32)):
        scaled = BELIEFS(seen, np.stack([factor * said] * 4))[0]
        np.testing.assert_allclose(scaled, got[0], rtol=1e-5)
    for kind in (jnp.bfloat16, np.int32, bool):
        half = exact.beliefs(GAME, seen[0], said.astype(kind))
        np.testing.assert_allclose(half, got[0], atol=1e-6)


def test_plain_words_and_dossiers():
    for player in range(4):
        rows = list(rows_of(player))
        np.testing.assert_array_equal(exact.SEEN[player], rows)
        want = [plain(player, row) for row in rows]
        np.testing.assert_array_equal(exact.LITERAL[player], want)
    seen = np.stack([exact.SEEN[p][n] for p, n in enumerate((4, 26, 0, 13))])
    np.testing.assert_array_equal(exact.dossier(seen.astype("u1")), [4, 26, 0, 13])


def test_games_are_drawn_as_often_as_the_likelihood_says():
    states = some(6000, 3)
    number = np.asarray(jax.vmap(exact.dossier)(states.seen))
    spy, want = np.asarray(states.impostor), np.asarray(exact.likelihood(GAME))
    np.testing.assert_allclose(want.sum(-1), 1, rtol=1e-5)
    for player, impostor in ((0, 0), (0, 2), (3, 1)):
        some_games = number[spy == impostor, player]
        got = np.bincount(some_games, minlength=27) / len(some_games)
        assert np.abs(got - want[player, impostor]).sum() < 0.16
        rows = list(rows_of(player))
        each = [chance(player, row, impostor) for row in rows]
        if player == impostor:
            each = [alibi(player, row) for row in rows]
        np.testing.assert_allclose(want[player, impostor], each, rtol=1e-4)


def test_the_best_crew():
    solve = jax.jit(exact.solve)
    # Nothing is known: three guesses agree on the truth, or all follow one guess.
    for game in (world.build(sight=0.0), world.build(works=0.4, fakes=0.4)):
        blind = solve(game)
        np.testing.assert_allclose(blind.alone, 1 / 27, rtol=1e-5)
        np.testing.assert_allclose([blind.told, blind.literal], 1 / 4, rtol=1e-5)
        np.testing.assert_allclose(blind.right, 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(solve(world.build(sight=1, works=1, fakes=0)), 1)
    best = solve(GAME)
    assert best.alone < best.right < best.literal < best.told
    # Each votes by its own dossier; evenly among the likeliest.
    right = 0.0
    for row in rows_of(0):
        odds = [chance(0, row, j) for j in (1, 2, 3)]
        ties = sum(abs(x - max(odds)) < 1e-9 for x in odds)
        right += odds[0] / ties * (abs(odds[0] - max(odds)) < 1e-9)
    np.testing.assert_allclose([best.right, best.alone], [right, right**3], rtol=1e-5)
    # A crew that hears dossiers and votes by its beliefs is as good as that.
    states = some(6000, 1)
    said = jax.nn.one_hot(jax.vmap(exact.dossier)(states.seen), exact.DOSSIERS)
    vote = jnp.argmax(BELIEFS(states.seen, said), -1)
    out = jax.vmap(lambda v, i: world.eject(world.hide(v, i)))(vote, states.impostor)
    np.testing.assert_allclose(np.mean(out == states.impostor), best.told, atol=0.02)


def test_words_move_beliefs_towards_the_truth():
    states = some(3000, 2)
    seen, spy = np.asarray(states.seen), np.asarray(states.impostor)
    number = np.asarray(jax.vmap(exact.dossier)(states.seen))
    prefix = [np.full((4, 27, 2), -1), exact.LITERAL.copy(), exact.LITERAL]
    prefix[1][..., 1] = -1
    same = [(p[:, :, None] == p[:, None]).all(-1).astype(np.float32) for p in prefix]
    pools = []
    for turn in range(9):
        spoken = [turn // 4 + (s < turn % 4) for s in range(4)]
        said = np.stack([same[spoken[s]][s][number[:, s]] for s in range(4)], 1)
        belief = np.asarray(BELIEFS(seen, said))
        pools.append(np.take_along_axis(belief, spy[:, None, None], 2)[..., 0])
    pools = np.stack(pools, 1)
    crew = (np.arange(4) != spy[:, None]).astype(np.float32)
    sign = 2 * crew[:, np.arange(8) % 4] - 1
    paid = np.asarray(jax.vmap(belief_shift)(pools, sign, crew))
    pool = (pools * crew[:, None]).sum(-1)
    np.testing.assert_allclose(sign * paid, np.diff(pool, axis=1), atol=1e-5)
    # On average Bayes' rule learns from each word, from those of the impostor too.
    assert (np.diff(pool, axis=1).mean(0) > 0.01).all()
    assert pool[:, -1].mean() > pool[:, 0].mean() + 0.3


def test_votes():
    votes = jnp.array(list(itertools.product(range(4), repeat=4)))
    out = np.asarray(jax.jit(jax.vmap(world.eject))(votes.astype(jnp.uint8)))
    for row, ejected in zip(np.asarray(votes), out, strict=True):
        (first, most), *rest = Counter(row.tolist()).most_common()
        tied = bool(rest) and rest[0][1] == most
        assert ejected == (world.NOBODY if tied else first)
    hidden = jax.jit(jax.vmap(lambda v, i: world.eject(world.hide(v, i)), (0, None)))
    for spy in range(4):
        crew = [i for i in range(4) if i != spy]
        agree = (np.asarray(votes)[:, crew] == spy).all(-1)
        np.testing.assert_array_equal(hidden(votes, spy) == spy, agree)


@pytest.mark.parametrize(("votes", "won"), [((1, 1, 0, 1), 1), ((1, 2, 2, 1), 0)])
def test_a_game_from_its_beginning_to_its_vote(votes, won):
    seen = np.array([[3, 2, 0, 1], [1, 3, 2, 0], [0, 2, 3, 1], [1, 2, 0, 3]])
    state, key = world.begin(1, seen), jax.random.key(0)
    step = jax.jit(lambda state, action: world.step(GAME, state, action, key))
    words = [2, 6, 0, 2, 8, 5, 3, 1]
    for turn, word in enumerate(words):
        action = jnp.full(4, 7).at[turn % 4].set(word)
        state, views, paid, ended = step(state, action)
        assert not ended
        np.testing.assert_array_equal(paid, 0)
        said = words[: turn + 1] + [9] * (7 - turn)
        want = [[int(i == 1), *seen[i], *said] for i in range(4)]
        np.testing.assert_array_equal(views, want)
    state, _, paid, ended = step(state, jnp.array(votes))
    assert ended
    assert state.ejected == (1 if won else world.NOBODY)
    np.testing.assert_array_equal(paid, [won, 1 - won, won, won])
    after, _, paid, ended = step(state, jnp.array([1, 1, 1, 1]))
    assert ended
    np.testing.assert_array_equal(paid, 0)
    jax.tree.map(np.testing.assert_array_equal, state, after)
    jax.tree.map(np.testing.assert_array_equal, state.words, world.say(state, 3).words)


SEEN = np.where(np.eye(4, dtype=bool), 3, 0)
BEGUN = world.begin(0, SEEN)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.build(sight=1.2), "sight is 1.2"),
        (lambda: world.build(works=float("nan")), "works is nan"),
        (lambda: world.build(fakes=-0.1), "fakes is -0.1"),
        (lambda: world.build(sight=np.full(2, 0.5)), r"sight has shape \(2,\)"),
        (lambda: world.begin(4, SEEN), "impostor is 4"),
        (lambda: world.begin(np.arange(4), SEEN), r"impostor has shape \(4,\)"),
        (lambda: world.begin(0, SEEN[0]), "seen has shape"),
        (lambda: world.begin(0, np.full((4, 4), 3)), "3 on the diagonal alone"),
        (lambda: world.begin(0, 0 * SEEN), "3 on the diagonal alone"),
        (
            lambda: world.step(
                GAME, BEGUN._replace(turn=jnp.int32(8)), jnp.arange(4) + 1, None
            ),
            "action is 4",
        ),
        (lambda: world.say(BEGUN, 9), "word is 9"),
        (lambda: world.say(BEGUN, np.arange(2)), r"word has shape \(2,\)"),
        (lambda: world.eject(jnp.array([0, 1, 2])), "votes has shape"),
        (lambda: world.eject(jnp.array([0, 1, 2, 4])), "votes is 4"),
        (lambda: world.hide(jnp.array([0, 1, 2, 3]), 4), "impostor is 4"),
        (lambda: world.hide(np.arange(4), np.arange(2)), "impostor has shape"),
        (
            lambda: world.step(GAME, BEGUN, jnp.arange(3), jax.random.key(0)),
            "action has shape",
        ),
        (lambda: world.render(GAME, BEGUN, scale=0), "scale is 0"),
        (lambda: exact.dossier(SEEN + 1), "seen is 4"),
        (lambda: exact.beliefs(GAME, SEEN, np.ones((4, 26))), "said has shape"),
        (lambda: exact.beliefs(GAME, SEEN, -np.ones((4, 27))), "said is -1"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_bad_types():
    for call, match in (
        (lambda: world.build(works="0.6"), "works holds '0.6'; expected numbers"),
        (lambda: exact.beliefs(GAME, SEEN, [[1.0] * 27] * 4), "said is a list"),
    ):
        with pytest.raises(TypeError, match=match):
            call()
