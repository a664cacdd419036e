"""Four players of whom one is the impostor, eight words, and a vote.

Before they talk each crew member may have seen each other player at a task or idle; the
impostor is seen idle more often. It knows everything, and has an alibi: what it would
have seen as a crew member, were another the impostor. Each speaks twice, in the order
of the seats, a word of nine: nothing, or that a player is accused or cleared. What
words mean is for the players to agree on. Who gets more votes than any other is
ejected, and the crew wins if that is the impostor. `worlds.hidden_role_beliefs` has
exact beliefs and the best that a crew can do.

Reference: Sarkar et al., "Training Language Models for Social Deduction with
Multi-Agent Reinforcement Learning", arXiv 2502.06060; two messages each, and a tie
that ejects nobody, are of its ``string_env.py``. There players walk, work and kill.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlib_guidance.reduce import known_false, require_shape
from jaxlib_guidance.types import Array, pytree_dataclass
from jaxlib_guidance.worlds._checks import require_chance, require_index, require_number

PLAYERS, TURNS, WORDS = 4, 8, 9
NOTHING, AT_TASK, IDLE, SELF = 0, 1, 2, 3
"""What one saw of another; `SELF` stands for oneself."""
SILENCE, ACCUSE, CLEAR, UNSAID = 0, 1, 5, 9
"""Words: ``ACCUSE + j`` and ``CLEAR + j`` are about player ``j``."""
NOBODY, VOTING = 4, 5
"""Who is ejected by a tie, and before the vote."""
OWN = np.eye(PLAYERS, dtype=bool)


@pytree_dataclass
class Game:
    """How players are seen.

    Attributes:
      sees: Probability that another sees nothing of a player, sees it at a task, and
        sees it idle, ``[2, 3]``: of a crew member, and of the impostor.
    """

    sees: Array


class State(NamedTuple):
    """A game after some words; integers are int32.

    Attributes:
      impostor: Number of the impostor.
      seen: What each (row) saw of each, ``[4, 4]``; of the impostor, its alibi.
      words: Words by turn, ``[8]``, `UNSAID` where nothing is said yet.
      turn: Number of words so far; player ``turn % 4`` is next, and after 8 all vote.
      ejected: Who is ejected, `NOBODY`, or `VOTING`.
    """

    impostor: Array
    seen: Array
    words: Array
    turn: Array
    ejected: Array


def build(
    *,
    sight: float | Array = 0.6,
    works: float | Array = 0.8,
    fakes: float | Array = 0.2,
) -> Game:
    """A game; by default crews win .24 if each votes for itself, and .74 at best.

    Args:
      sight: Probability that a player sees another before the discussion.
      works: Probability that a crew member is then at a task.
      fakes: Probability that the impostor seems to be.

    Returns:
      The game.

    Raises:
      TypeError: Text.
      ValueError: A number outside [0, 1], or several.
    """
    for name, chance in (("sight", sight), ("works", works), ("fakes", fakes)):
        require_chance(name, chance)
        require_shape(name, chance, ())
    sight = jnp.float32(sight)
    task = jnp.stack([jnp.float32(works), jnp.float32(fakes)])
    nothing = jnp.full(2, 1 - sight)
    return Game(jnp.stack([nothing, sight * task, sight * (1 - task)], -1))


def reset(game: Game, key: Array) -> tuple[State, Array]:
    """Draws the impostor, what the crew saw, and the alibi.

    Args:
      game: The game.
      key: A typed key.

    Returns:
      The state, in which nothing is said, and what is observed.
    """
    of_role, of_frame, of_sight = jax.random.split(key, 3)
    impostor = jax.random.randint(of_role, (), 0, PLAYERS)
    framed = jax.random.randint(of_frame, (), 0, PLAYERS - 1)
    framed = jnp.where(framed >= impostor, framed + 1, framed)
    rows = jnp.arange(PLAYERS)
    suspect = jnp.where(rows == impostor, framed, impostor)
    odds = game.sees[(rows == suspect[:, None]).astype(jnp.int32)]
    seen = jax.random.categorical(of_sight, jnp.log(odds)).astype(jnp.int32)
    state = begin(impostor, jnp.where(OWN, SELF, seen))
    return state, observe(state)


def begin(impostor: Array | int, seen: Array) -> State:
    """A game in which nothing is said.

    Args:
      impostor: Number of the impostor, 0 to 3.
      seen: What each (row) saw of each, integers ``[4, 4]``, `SELF` on the diagonal.

    Returns:
      The state.

    Raises:
      ValueError: Another shape or number, `SELF` elsewhere.
    """
    require_shape("impostor", impostor, ())
    require_index("impostor", impostor, PLAYERS)
    require_seen(seen)
    return State(
        jnp.asarray(impostor, jnp.int32), jnp.asarray(seen, jnp.int32),
        jnp.full(TURNS, UNSAID, jnp.int32), jnp.int32(0), jnp.int32(VOTING),
    )  # fmt: skip


def require_seen(seen: Array) -> None:
    """Raises where a known matrix is not what each player saw of each."""
    require_shape("seen", seen, (PLAYERS, PLAYERS))
    require_index("seen", seen, SELF + 1)
    if known_false(lambda seen: (seen == SELF) == OWN, seen):
        raise ValueError(f"seen is {seen}; expected {SELF} on the diagonal alone")


def step(
    game: Game, state: State, action: Array, key: Array
) -> tuple[State, Array, Array, Array]:
    """A word of who is next, or the vote of all.

    Args:
      game: The game.
      state: Words so far.
      action: The word of each player, integers ``[4]``, of which that of player ``turn
        % 4`` is said; after eight words the player for whom each votes.
      key: Typed key; nothing is drawn from it.

    Returns:
      The state, what is observed, rewards ``[4]``, 1 to the winners when the votes are
      counted and 0 else, and whether they are. After that nothing changes.
    """
    del game, key
    require_shape("action", action, (PLAYERS,))
    # Where the turn is not known yet, a vote above 3 counts as one for player 3.
    ballot = known_false(lambda turn: turn < TURNS, state.turn)
    require_index("action", action, PLAYERS if ballot else WORDS)
    voting, over = state.turn >= TURNS, state.ejected < VOTING
    said = say(state, action[state.turn % PLAYERS])
    out = state._replace(ejected=eject(jnp.minimum(action, PLAYERS - 1)))
    after = jax.tree.map(lambda a, b: jnp.where(voting, a, b), out, said)
    after = jax.tree.map(lambda a, b: jnp.where(over, a, b), state, after)
    ended = after.ejected < VOTING
    caught = after.ejected == after.impostor
    won = caught != (jnp.arange(PLAYERS) == after.impostor)
    paid = jnp.where(ended & ~over, won.astype(jnp.float32), 0.0)
    return after, observe(after), paid, ended


def say(state: State, word: Array | int) -> State:
    """The game with a word more; after eight it stays as it is.

    Args:
      state: Words so far.
      word: What player ``turn % 4`` says, 0 to 8.

    Returns:
      The state.
    """
    require_shape("word", word, ())
    require_index("word", word, WORDS)
    on = state.turn < TURNS
    at = jnp.minimum(state.turn, TURNS - 1)
    word = jnp.where(on, jnp.asarray(word, jnp.int32), state.words[at])
    return state._replace(
        words=state.words.at[at].set(word), turn=state.turn + on.astype(jnp.int32)
    )


def eject(votes: Array) -> Array:
    """Who has more votes than any other.

    Args:
      votes: The player for whom each votes, integers ``[4]``, 0 to 3.

    Returns:
      Int32 scalar, `NOBODY` where the most votes are tied.
    """
    require_shape("votes", votes, (PLAYERS,))
    require_index("votes", votes, PLAYERS)
    votes = jnp.asarray(votes, jnp.int32)
    counts = jnp.sum(votes[:, None] == jnp.arange(PLAYERS), 0)
    first = jnp.argmax(counts)
    alone = jnp.sum(counts == counts[first]) == 1
    return jnp.where(alone, first, NOBODY).astype(jnp.int32)


def hide(votes: Array, impostor: Array | int) -> Array:
    """The votes, where the impostor votes last and saves itself if it can.

    It votes for the crew member who has most votes of the crew, and so is caught only
    by a crew that agrees.

    Args:
      votes: The player for whom each votes, integers ``[4]``, 0 to 3; the impostor's
        changes nothing.
      impostor: Number of the impostor.

    Returns:
      Int32 ``[4]``.
    """
    require_shape("votes", votes, (PLAYERS,))
    require_index("votes", votes, PLAYERS)
    require_shape("impostor", impostor, ())
    require_index("impostor", impostor, PLAYERS)
    votes, seat = jnp.asarray(votes, jnp.int32), jnp.arange(PLAYERS)
    by_crew = (seat != impostor)[:, None] & (votes[:, None] == seat)
    counts = jnp.where(seat == impostor, -1, jnp.sum(by_crew, 0))
    return votes.at[impostor].set(jnp.argmax(counts).astype(jnp.int32))


def observe(state: State) -> Array:
    """What a crew member knows; the impostor knows the state.

    Args:
      state: The game.

    Returns:
      Int32 ``[4, 13]``, a row a player: whether it is the impostor, what it saw of each
      (for the impostor, its alibi), and the words so far.
    """
    role = jnp.arange(PLAYERS, dtype=jnp.int32) == state.impostor
    words = jnp.broadcast_to(state.words, (PLAYERS, TURNS))
    return jnp.concatenate([role[:, None].astype(jnp.int32), state.seen, words], -1)


def render(game: Game, state: State, *, scale: int = 16) -> Array:
    """What each player (row) saw of each, and the words about each below.

    Args:
      game: The game.
      state: The game so far.
      scale: Pixels of a cell.

    Returns:
      Float32 ``[12 scale, 4 scale, 3]`` in [0, 1]: green at a task or cleared, red idle
      or accused, dark who sees, and blue where that is the impostor.
    """
    del game
    require_number("scale", scale, 1)
    colors = jnp.array([[1, 1, 1], [0.2, 0.65, 0.3], [0.8, 0.2, 0.16], [0.3, 0.3, 0.3]])
    seen = colors[state.seen]
    spy = OWN & (jnp.arange(PLAYERS) == state.impostor)
    seen = jnp.where(spy[..., None], jnp.array([0.2, 0.3, 0.9]), seen)
    word, seat = state.words[:, None], jnp.arange(PLAYERS)
    told = jnp.where(word == CLEAR + seat, AT_TASK, NOTHING)
    told = colors[jnp.where(word == ACCUSE + seat, IDLE, told)]
    return jnp.kron(jnp.concatenate([seen, told]), jnp.ones((scale, scale, 1)))
