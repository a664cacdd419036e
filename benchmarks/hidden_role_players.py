"""Players of `worlds.hidden_role`: a network each, what they hear, and games of them.

All crew members are one network, which is told a game from a player's own place: who
else is at which of three places, what the player saw of them, and who said what about
which place. The impostor has an alibi to speak from. One that mimics is the crew's
network, with its alibi for what it saw; one that adapts adds to the mimic's logits what
a second network says, which is told who it is and what all saw.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.types import Array
from jaxlib_guidance.worlds import hidden_role as world
from jaxlib_guidance.worlds import hidden_role_beliefs as exact

LEARNED, COIN, LITERAL = 0, 1, 2
"""How the crew speaks: by its network, at random, or plainly."""
MIMIC, ADAPTIVE, OWN, PLAIN = 0, 1, 2, 3
"""How the impostor does: like the crew, so and better, by its own network, plainly."""
SEATS = np.arange(world.PLAYERS)
SPEAKER = np.arange(world.TURNS) % world.PLAYERS
HEARD = 4 + 9
"""Inputs: the seat, what was seen at three places, then the words of four speakers."""
INPUTS = HEARD + 4 * 2 * world.WORDS
KNOWN = INPUTS + 4 * 4 * 4
HEADS = world.WORDS + 3 + 1
"""Outputs: nine words, three places as impostor or vote, and a value."""


def translations():
    """Words about players as words about places of who hears them, and back."""
    to_place = np.zeros((world.PLAYERS, world.WORDS), int)
    to_player = np.zeros_like(to_place)
    for seat in SEATS:
        for player in SEATS:
            place = (player - seat) % world.PLAYERS
            for kind in (world.ACCUSE, world.CLEAR):
                to_place[seat, kind + player] = kind + place
                to_player[seat, kind + place] = kind + player
    return to_place, to_player


TO_PLACE, TO_PLAYER = translations()


class Games(NamedTuple):
    """Games that were played, ``[B, ...]``.

    Attributes:
      state: Worlds before the first word.
      words: Words about players, ``[B, 8]``.
      heard: Inputs that each word sets for each player, ``[B, 8, 4]``.
      outs: Outputs of the crew's network for each player, ``[B, 9, 4, 13]``.
      spy: Outputs of the impostor's, before each word, ``[B, 8, 13]``.
      vote: Places for which the players vote, 1 to 3, ``[B, 4]``.
      win: 1 where the crew wins, ``[B]``.
      truth: Place of the impostor, 1 to 3, and 1 for itself, ``[B, 4]``.
      crew: 1 for crew members, ``[B, 4]``.
    """

    state: world.State
    words: Array
    heard: Array
    outs: Array
    spy: Array
    vote: Array
    win: Array
    truth: Array
    crew: Array


def network(key, hidden, inputs=INPUTS):
    """A hidden layer and a direct one; at the start all outputs are 0."""
    first = jax.random.normal(key, (inputs, hidden)) / 3
    first = jnp.concatenate([first, jnp.zeros((inputs, HEADS))], 1)
    return {"in": first, "out": jnp.zeros((hidden, HEADS))}


def heads(net, total):
    """Outputs where the inputs that are set add up to ``total``."""
    return jnp.tanh(total[..., :-HEADS]) @ net["out"] + total[..., -HEADS:]


def opening(net, seen):
    """Sum of the inputs of each player before any word; seen ``[..., 4, 4]``."""
    others = jnp.broadcast_to(
        (SEATS[:, None] + np.arange(1, 4)) % 4, (*seen.shape[:-1], 3)
    )
    saw = jnp.take_along_axis(seen, others, -1)
    return net["in"][SEATS] + jnp.sum(net["in"][4 + 3 * np.arange(3) + saw], -2)


def knowing(net, seen, spy):
    """The same of the impostor's network, which knows what all saw."""

    def one(seen, spy):
        placed = jnp.roll(seen, (-spy, -spy), (0, 1)).ravel()
        return net["in"][spy] + jnp.sum(
            net["in"][INPUTS + 4 * np.arange(16) + placed], 0
        )

    return jax.vmap(one)(seen, spy)


def of(values, player):
    """What belongs to a player of each game: ``[B, ..., 4]`` to ``[B, ...]``."""
    index = player.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.take_along_axis(values, index, -1)[..., 0]


def play(game, net, spynet, key, number, *, mode, kind, greedy=False):
    """Plays ``number`` games; votes are drawn, or ``greedy`` the likeliest."""
    start, speak, ballot = jax.random.split(key, 3)
    state, _ = jax.vmap(world.reset, (None, 0))(game, jax.random.split(start, number))
    spy = state.impostor
    plain = jnp.asarray(exact.LITERAL)[SEATS, jax.vmap(exact.dossier)(state.seen)]
    total, known = opening(net, state.seen), knowing(spynet, state.seen, spy)

    def turn(carry, each):
        total, known = carry
        t, key = each
        speaker = t % world.PLAYERS
        outs, hers = heads(net, total), heads(spynet, known)
        own = outs[:, speaker, : world.WORDS]
        lies = (spy == speaker)[:, None]
        logits = jnp.where(mode == COIN, 0.0, own)
        # Who mimics plain words says them; what an adaptive one adds is to the logits.
        said = jax.nn.one_hot(
            jnp.asarray(TO_PLACE)[speaker, plain[:, speaker, t // 4]], world.WORDS
        )
        logits = jnp.where(mode == LITERAL, 20.0 * said, logits)
        logits = jnp.where(lies & (kind == PLAIN), 20.0 * said, logits)
        correct = (kind == ADAPTIVE) | (kind == OWN)
        # No word is so unlikely that the impostor could not learn to say it.
        near = jnp.maximum(jax.nn.log_softmax(logits), -6.0)
        mine = hers[:, : world.WORDS] + jnp.where(kind == OWN, 0.0, near)
        logits = jnp.where(lies & correct, mine, logits)
        place = jax.random.categorical(key, logits)
        word = jnp.asarray(TO_PLAYER)[speaker, place]
        slot = (speaker - SEATS) % world.PLAYERS * 2 + t // world.PLAYERS
        heard = HEARD + slot * world.WORDS + jnp.asarray(TO_PLACE)[SEATS, word[:, None]]
        total = total + net["in"][heard]
        known = known + spynet["in"][of(heard, spy)]
        return (total, known), (word, heard, outs, hers, logits)

    turns = jnp.arange(world.TURNS), jax.random.split(speak, world.TURNS)
    (total, _), made = jax.lax.scan(turn, (total, known), turns)
    words, heard, outs, hers, logits = (jnp.moveaxis(x, 0, 1) for x in made)
    last = heads(net, total)
    outs = jnp.concatenate([outs, last[:, None]], 1)
    odds = last[..., world.WORDS : -1]
    drawn = jax.random.categorical(ballot, odds)
    vote = 1 + jnp.where(greedy, jnp.argmax(odds, -1), drawn)
    win = won((SEATS + vote) % world.PLAYERS, spy)
    truth = jnp.maximum((spy[:, None] - SEATS) % world.PLAYERS, 1)
    crew = (spy[:, None] != SEATS).astype(jnp.float32)
    games = Games(state, words, heard, outs, hers, vote, win, truth, crew)
    return games, logits


def won(votes, spy):
    """1 where votes ``[B, 4]`` eject the impostor, who votes last."""
    ejected = jax.vmap(lambda v, i: world.eject(world.hide(v, i)))(votes, spy)
    return (ejected == spy).astype(jnp.float32)


def reread(net, seen, heard):
    """Outputs of the crew's network on games that were played, ``[B, 9, 4, 13]``."""
    said = jnp.cumsum(net["in"][heard], 1)
    before = opening(net, seen)[:, None]
    return heads(net, jnp.concatenate([before, before + said], 1))


def chosen(logits, choice):
    """Log-probability of a choice among the last axis."""
    every = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(every, choice[..., None], -1)[..., 0]


def bayes(game, net, games):
    """Share of wins if the words were heard by Bayes' rule, against a mimic.

    A mimic's words have the same chances as the crew's, each with its dossier.
    """
    seen = np.broadcast_to(exact.SEEN[:, :, None], (4, exact.DOSSIERS, 4, 4))
    before = opening(net, seen)[SEATS, :, SEATS]  # What each speaker has of its own.
    said = net["in"][games.heard]
    past = (jnp.cumsum(said, 1) - said)[:, np.arange(world.TURNS), SPEAKER]
    outs = heads(net, before[SPEAKER] + past[:, :, None])[..., : world.WORDS]
    place = jnp.asarray(TO_PLACE)[SPEAKER, games.words]
    logp = chosen(outs, jnp.broadcast_to(place[..., None], outs.shape[:-1]))
    logp = logp.reshape(-1, 2, world.PLAYERS, exact.DOSSIERS).sum(1)
    chance = jnp.exp(logp - jnp.max(logp, -1, keepdims=True))
    belief = jax.vmap(exact.beliefs, (None, 0, 0))(game, games.state.seen, chance)
    return jnp.mean(won(jnp.argmax(belief, -1), games.state.impostor))
