"""Negotiations against a plain account of who says what, and against listing it all."""

import math
from functools import partial
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import negotiation as world
from jaxlib_guidance.worlds import negotiation_replays as replays

WORTH = (0.5, 0.3, 0.2)
OPTIONS = {"chatty": 0.4, "honest": 0.7, "warmth": 0.25, "care": 0.4}
TALKS = world.build(WORTH, asks=0.55, temperature=0.2, **OPTIONS)
ORDERS = list(permutations(range(3)))
GEN = np.random.default_rng(0)
SAY = jax.jit(partial(world.say, TALKS))
REPLAY = jax.jit(partial(replays.replay, TALKS), static_argnums=3)
SCORES = jax.jit(partial(world.scores, TALKS), static_argnums=1)


def share(order, items):
    return sum(WORTH[ORDERS[order][i]] for i in items)


class Talk:
    """The rules once more: sets of items, a player's notes, no bits."""

    def __init__(self, orders):
        self.orders, self.turn, self.last = orders, 0, None
        self.offer, self.by, self.deal = None, None, None
        self.told, self.warm = [None, None], [0, 0]
        self.beliefs = [[1 / 6] * 6, [1 / 6] * 6]

    def habits(self, order):
        """Probability of each number of a word."""
        me, out = self.turn % 2, [0.0] * 13
        if self.last == 8:
            for item in range(3):
                out[9 + item] = 0.1 + 0.7 * (ORDERS[order][item] == 0)
            return out

        def guess(item):  # What the other may think of an item.
            if self.told[me] is None:
                return 1 / 3
            return 0.5 if item == self.told[me] else 0.25

        odds = []
        for bits in range(8):
            mine = [i for i in range(3) if bits >> i & 1]
            rest = sum(guess(i) for i in range(3) if i not in mine)
            kind = 0.4 + 0.25 * self.warm[me]
            odds.append(math.exp((share(order, mine) + kind * rest) / 0.2))
        agree, own = 0.0, None
        if self.offer is not None and self.by != me:
            own = self.offer[me]
            short = 0.55 - 0.25 * self.warm[me] - share(order, own)
            agree = 1 / (1 + math.exp(short / 0.2))
        for bits in range(8):
            out[bits] = (1 - agree) * odds[bits] / sum(odds)
            if own is not None and bits == sum(1 << i for i in own):
                out[bits] += agree
        if self.last == 12:
            out = [0.6 * p for p in out]
            out[12] = 0.4
        return out

    def say(self, word):
        if self.turn == 6 or self.deal is not None:
            return
        me, you = self.turn % 2, 1 - self.turn % 2
        if word < 13:
            both = [self.beliefs[you][k] * self.habits(k)[word] for k in range(6)]
            if sum(both) > 0:
                self.beliefs[you] = [x / sum(both) for x in both]
        if word < 8:
            mine = [i for i in range(3) if word >> i & 1]
            split = {me: mine, you: [i for i in range(3) if i not in mine]}
            if self.offer is not None and self.by == you and self.offer == split:
                self.deal = split
            self.offer, self.by = split, me
        elif 9 <= word < 12:
            self.told[you] = word - 9
        elif word == 12:
            self.warm[you] += 1
        self.last, self.turn = word, self.turn + 1

    def scores(self, me):
        got = [0.0, 0.0]
        if self.deal is not None:
            got = [share(self.orders[i], self.deal[i]) for i in (0, 1)]
        entropy = -sum(p * math.log(p) for p in self.beliefs[me] if p > 0)
        return got[me], got[1 - me], 1 - entropy / math.log(6)


def played(orders, words, draws, me):
    """The talk in which one says the words and the other what the draws decide."""
    talk = Talk(orders)
    for turn in range(6):
        word = words[turn]
        if turn % 2 != me:
            past = np.cumsum(talk.habits(orders[turn % 2])) <= draws[turn]
            word = int(past.sum())
        talk.say(word)
    return talk


def some_talks(number):
    for place in range(number):
        orders = [int(x) for x in GEN.integers(0, 6, 2)]
        words = [int(x) for x in GEN.choice([3, 5, 6, 1, 8, 9, 12, 13], 6)]
        yield orders, words, GEN.uniform(size=6).astype(np.float32), place % 2


def test_talks_go_as_the_rules_say():
    ends = []
    for orders, words, draws, me in some_talks(60):
        end = REPLAY(jnp.array(orders), jnp.array(words), draws, me)
        talk = played(orders, words, draws, me)
        for player in (0, 1):
            want = talk.scores(player)
            np.testing.assert_allclose(SCORES(end, player), want, atol=2e-5)
        np.testing.assert_allclose(end.beliefs, talk.beliefs, atol=2e-5)
        ends.append(talk.deal is not None)
    assert 0.2 < np.mean(ends) < 0.8
    np.testing.assert_allclose(TALKS.habits.sum(-1), 1, rtol=1e-5)


def test_contributions_are_what_is_lost_without_an_utterance():
    found = jax.jit(partial(replays.contributions, TALKS), static_argnums=3)
    some = 0
    for orders, words, draws, me in some_talks(20):
        total, gain = found(jnp.array(orders), jnp.array(words), draws, me)
        want = np.array(played(orders, words, draws, me).scores(me))
        np.testing.assert_allclose(total, want, atol=2e-5)
        for turn in range(6):
            less = [*words[:turn], 13, *words[turn + 1 :]]
            lost = want - np.array(played(orders, less, draws, me).scores(me))
            np.testing.assert_allclose(gain[turn], lost, atol=4e-5)
            some += np.abs(lost[0]) > 0.05
    assert some > 3


def expected(talk, words, me):
    """Goal score of the best words from here, by listing; a talk is its words."""
    state = Talk(talk)
    weight = [1 / 6] * 6
    for turn, word in enumerate(words):
        if turn % 2 != me:
            weight = [w * state.habits(k)[word] for k, w in enumerate(weight)]
        state.say(word)
    if state.turn == 6 or state.deal is not None:
        return sum(weight) * state.scores(me)[0]
    each = [expected(talk, [*words, word], me) for word in range(13)]
    return max(each) if state.turn % 2 == me else sum(each)


@pytest.mark.parametrize(("words", "me"), [((8, 10, 6, 5), 0), ((3, 8, 9, 12), 1)])
def test_plans_are_the_best_of_all_that_can_be_said(words, me):
    state = world.begin(jnp.array([2, 4]))
    said = 1 / 6 * np.ones(6)
    talk = Talk([2, 4])
    for turn, word in enumerate(words):
        if turn % 2 != me:
            said = said * np.array([talk.habits(k)[word] for k in range(6)])
        talk.say(word)
        state = SAY(state, word)
    found = jax.jit(lambda talks: replays.solve(talks, state, me))(TALKS)
    np.testing.assert_allclose(
        found * said.sum(), expected([2, 4], list(words), me), rtol=1e-4
    )


@pytest.mark.slow
def test_planning_is_worth_more_the_more_is_left_to_say():
    start = world.begin(jnp.array([0, 0]))
    talks = world.build()
    plan = lambda me: jax.jit(lambda talks: replays.solve(talks, start, me))  # noqa: E731
    best = [float(plan(me)(talks)) for me in (0, 1)]
    # Who gets its favourite and nothing else has .6; who speaks last may only agree.
    assert best[0] > best[1] > 0.6


def test_words_are_about_own_ranks():
    for order, ranks in enumerate(ORDERS):
        for word in range(8):
            items = [i for i in range(3) if world.BY_ITEM[order, word] >> i & 1]
            assert sorted(ranks[i] for i in items) == [
                r for r in range(3) if word >> r & 1
            ]
        assert world.BY_ITEM[order, 9] == 9 + ranks.index(0)
    np.testing.assert_array_equal(
        np.take_along_axis(world.BY_RANK, world.BY_ITEM, 1), np.tile(range(14), (6, 1))
    )
    # The first likes the last item best, offers the middle one, and keeps the others.
    state = SAY(world.begin(jnp.array([5, 2])), 5)
    # To the second, of order (1, 0, 2), that is its best item, and nothing is heard.
    np.testing.assert_array_equal(world.observe(state), [0, 1, 3, 0b001])
    np.testing.assert_array_equal(world.observe(SAY(state, 9)), [1, 0, 2, 8])


def test_visits():
    @jax.jit
    @jax.vmap
    def visit(key):
        state, seen = world.reset(TALKS, key)
        player = state.turn % 2

        def speak(carry, key):
            state, seen, paid, over, right = carry
            agree = jnp.where(seen[3] < 8, seen[3], 8)  # Or it asks.
            state, seen, reward, ended = world.step(TALKS, state, agree, key)
            right &= (reward == 0) | ended
            paid = jnp.where(over, paid, reward)
            return (state, seen, paid, over | ended, right), None

        start = state, seen, jnp.float32(0), jnp.array(False), jnp.array(True)
        end = jax.lax.scan(speak, start, jax.random.split(key, 3))[0]
        state, seen, paid, over, right = end
        total = world.scores(TALKS, state, player)
        return player, paid, over, right, total, seen

    player, paid, over, right, total, seen = visit(
        jax.random.split(jax.random.key(0), 500)
    )
    assert over.all()
    assert right.all()
    np.testing.assert_allclose(paid, total[:, 0], atol=1e-6)
    assert 0.4 < player.mean() < 0.6
    assert (np.asarray(seen) < np.array(world.PLACES)).all()
    assert 0.1 < paid.mean() < 0.6


START = world.begin(jnp.array([0, 1]))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: world.build((0.5, 0.5)), r"worth has shape \(2,\)"),
        (lambda: world.build((0.5, 0.5, 0.5)), "expected a sum of 1"),
        (lambda: world.build(honest=1.1), "honest is 1.1"),
        (lambda: world.build(chatty=float("nan")), "chatty is nan"),
        (lambda: world.build(temperature=0.0), "temperature is 0"),
        (lambda: world.build(care=-1.0), "care is -1"),
        (lambda: world.begin(jnp.array([0, 6])), "orders is 6"),
        (lambda: world.begin(jnp.array([0.0, 1])), "expected integers"),
        (lambda: world.begin(jnp.arange(3)), "orders has shape"),
        (lambda: world.say(TALKS, START, 14), "word is 14"),
        (lambda: world.step(TALKS, START, 13, jax.random.key(0)), "action is 13"),
        (lambda: world.scores(TALKS, START, 2), "player is 2"),
        (lambda: replays.solve(TALKS, START, 2), "player is 2"),
        (
            lambda: jax.jit(lambda s: replays.solve(TALKS, s, 0))(START),
            "state.turn is traced",
        ),
        (
            lambda: replays.replay(
                TALKS, jnp.zeros(2, int), np.ones(5, int), np.ones(6), 0
            ),
            "words has shape",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_talk_pays_once():
    state = world.begin(jnp.array([1, 2]))
    for word in (8, 3):  # A question, and the second speaker's offer of the rest.
        state = SAY(state, jnp.int32(word))
    step, key = jax.jit(partial(world.step, TALKS)), jax.random.key(0)
    made = [step(state, jnp.int32(word), key) for word in range(8)]
    agreed = [one for one in made if one[0].deal == 7 - 3]
    (after, _, paid, ended) = agreed[0]
    assert len(agreed) == 1
    assert ended
    np.testing.assert_allclose(paid, SCORES(after, 0)[0])
    assert paid > 0
    again, _, paid, ended = step(after, jnp.int32(3), key)
    jax.tree.map(np.testing.assert_array_equal, again, after)
    assert ended
    assert paid == 0


def test_knowledge_has_a_gradient_where_lies_are_ruled_out():
    def knowledge(honest):
        talks = world.build(honest=honest)
        words, draws = jnp.array([8, 0, 8, 0, 8, 0]), jnp.full(6, 0.3)
        state = replays.replay(talks, jnp.array([1, 2]), words, draws, 0)
        return world.scores(talks, state, 0)[2]

    assert jnp.isfinite(jax.grad(knowledge)(1.0))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"words": jnp.full(6, 99)}, "words is 99"),
        ({"draws": jnp.ones(6)}, "draws is 1.0; expected 0 to 1"),
        ({"draws": jnp.full(6, jnp.nan)}, "draws is nan"),
        ({"player": 7}, "player is 7"),
    ],
)
@pytest.mark.parametrize("function", [replays.replay, replays.contributions])
def test_replays_refuse_what_nobody_says(function, change, match):
    given = {"words": jnp.zeros(6, jnp.int32), "draws": jnp.zeros(6), "player": 0}
    with pytest.raises(ValueError, match=match):
        function(TALKS, jnp.array([0, 1]), **(given | change))
