"""Sums with steps: the checker beside one of regular expressions, and what is asked."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_guidance.worlds import chains, sums

LENGTH, MOST = 64, 12
LETTERS = "0123456789+=(#.wxRW?h"


def reference(a, b, digits, text):
    """What `sums.check` says, from the text alone and one step after the other."""
    marks = [m.start() for m in re.finditer(r"[(wx#]", text)]
    right, first, found = [], None, None
    place, carries, answer, counts = 0, [], -1, {m: 0 for m in "(wx#"}
    sound = bool(marks) and marks[0] == 0 and text.endswith(".")
    sound &= text.count(".") == 1 and len(marks) <= MOST
    for i, at in enumerate(marks[:MOST]):
        piece = re.match(r"[(wx#]([0-9]*)", text[at:])
        stop = marks[i + 1] if i + 1 < len(marks) else len(text) - 1
        body, mark = piece[1], text[at]
        counts[mark] += 1
        sound &= len(piece[0]) == stop - at
        if mark == "#":
            whole = 1 <= len(body) <= 5
            answer = int(body) if whole else -1
            good = answer == a + b
            if good and found is None:
                found = i
            place, carries = 0, []
        else:
            whole = len(body) == 5
            if mark == "(":
                came = carries[-1] if place else 0
                place += 1
                own = came
            good = whole and 0 < place <= digits and own is not None
            if good:
                x, y = (n // 10 ** (place - 1) % 10 for n in (a, b))
                total = x + y + own
                good = body == f"{x}{y}{own}{total % 10}{total // 10}"
            carries.append(int(body[4]) if whole else None)
        sound &= whole
        right.append(good)
        if not good and first is None:
            first = i
    sound &= counts["#"] > 0
    steps = len(right)
    return {
        "parsed": sound,
        "answer": answer,
        "right": sound and answer == a + b,
        "steps": steps,
        "length": len(text),
        "first_wrong": steps if first is None else first,
        "first_solution": steps if found is None else found,
        "columns": counts["("],
        "rechecks": counts["w"],
        "corrections": counts["x"],
        "solutions": counts["#"],
    }, right


@pytest.fixture(scope="module")
def cases():
    """Sums, their careless answers, and the same with letters that were changed."""
    keys = jax.random.split(jax.random.key(0), 300)

    @jax.jit
    def make(keys):
        problems = jax.vmap(partial(sums.draw, sums.Sums(1, 3)))(keys)
        habits = {"error": 0.2, "recheck": 0.3, "notice": 0.6, "again": 0.3}
        write = partial(chains.write, length=LENGTH, **habits)
        return problems, *jax.vmap(write)(keys, problems)

    problems, tokens, mask = jax.tree.map(np.asarray, make(keys))
    texts = [chains.decode(t, m) for t, m in zip(tokens, mask, strict=True)]
    random = np.random.default_rng(0)
    for i in range(100, 300):
        letters = list(texts[i])
        for _ in range(random.integers(1, 3)):
            at, kind = (int(random.integers(n)) for n in (len(letters), 3))
            letter = LETTERS[random.integers(len(LETTERS))]
            letters[at : at + (kind != 1)] = [letter] * (kind != 0)
            letters = letters or ["."]
        texts[i] = "".join(letters)[:LENGTH]
    return problems, texts


def padded(texts):
    rows = [chains.encode(text) for text in texts]
    tokens = np.array([row + [0] * (LENGTH - len(row)) for row in rows], np.int32)
    lengths = np.array([len(row) for row in rows])
    return tokens, np.arange(LENGTH) < lengths[:, None]


def test_a_check_is_that_of_the_text(cases):
    problems, texts = cases
    check = jax.jit(jax.vmap(partial(sums.check, most=MOST)))
    found = jax.tree.map(np.asarray, check(problems, *padded(texts)))
    kinds = set()
    for i, text in enumerate(texts):
        one = [int(x[i]) for x in problems]
        want, right = reference(*one, text)
        got = {name: getattr(found, name)[i].item() for name in want}
        assert got == want, (one, text)
        assert found.step_right[i, : len(right)].tolist() == right, (one, text)
        assert not found.step_right[i, len(right) :].any()
        steps = found.step_of[i, : len(text)]
        marked = [letter in "(wx#" for letter in text]
        np.testing.assert_array_equal(steps, np.cumsum(marked) - 1)
        kinds.add((want["parsed"], want["right"]))
    assert len(kinds) == 3


def test_a_careful_author_is_right_and_a_careless_one_goes_on_from_the_error(cases):
    problems, texts = cases

    @jax.jit
    @jax.vmap
    def careful(problem):
        wrote = chains.write(jax.random.key(1), problem, length=LENGTH)
        return sums.check(problem, *wrote, most=MOST)

    found = careful(problems)
    assert found.right.all()
    np.testing.assert_array_equal(found.columns, problems.digits)
    np.testing.assert_array_equal(found.first_wrong, found.steps)
    wrote = [reference(*(int(x[i]) for x in problems), texts[i]) for i in range(100)]
    uncorrected = [w for w, right in wrote if not w["right"]]
    assert 10 < len(uncorrected) < 90
    assert all(w["first_wrong"] < w["steps"] for w in uncorrected if w["parsed"])
    assert {w["solutions"] for w, _ in wrote} == {1, 2}
    assert any(w["corrections"] for w, _ in wrote)
    assert any(w["rechecks"] for w, _ in wrote)


def test_what_is_asked():
    problem = sums.Problem(*map(jnp.int32, (7, 58, 2)))
    asked = {
        "07+58=": partial(sums.prompt),
        "58+07=": partial(sums.prompt, turned=True),
        "07+58h06=#": partial(sums.prompt, hint=2, direct=True),
        "07+58=#065?": partial(sums.follow_up, answer=jnp.int32(65), judge=True),
        "07+58=#065x#": partial(sums.follow_up, answer=jnp.int32(65), judge=False),
        "07+58=#075x1#": partial(sums.follow_up, answer=jnp.int32(75), judge=False),
        "07+58=#168x2#": partial(sums.follow_up, answer=jnp.int32(168), judge=False),
    }
    made, answer = jax.jit(
        lambda p: (
            {text: ask(p) for text, ask in asked.items()},
            chains.direct(p, sums.solve(p), length=6),
        )
    )(problem)
    for text, (tokens, mask) in made.items():
        assert tokens.shape == (16,)
        assert chains.decode(tokens, mask) == text
        assert mask[-len(text) :].all()
        assert not mask[: -len(text)].any()
    assert chains.decode(*answer) == "065."


def test_an_episode():
    world = sums.Sums(2, 2)
    problem, (tokens, mask) = jax.jit(partial(sums.reset, world))(jax.random.key(3))
    asked = chains.decode(tokens, mask)
    a, b = map(int, asked[:-1].split("+"))
    assert len(asked) == 6
    good = f"#{a + b:03d}."
    step = jax.jit(partial(sums.step, world))
    for text, reward in ((good, 1), (good[::-1], 0), (good[:-1], 0), (".", 0), ("", 0)):
        tokens, mask = padded([text])
        *_, paid, over = step(problem, (tokens[0], mask[0]), jax.random.key(0))
        assert float(paid) == reward
        assert over


def test_a_tenth_of_all_sums_is_held_out_and_never_drawn(cases):
    problems, _ = cases
    assert not np.asarray(sums.held_out(sums.Problem(*problems))).any()
    a, b = np.divmod(np.arange(10_000, dtype=np.int32), 100)
    out = np.asarray(sums.held_out(sums.Problem(a, b, None))).reshape(100, 100)
    assert abs(out.mean() - 0.1) < 0.01
    assert np.abs(out.mean(0) - 0.1).max() < 0.12
    assert np.abs(out.mean(1) - 0.1).max() < 0.12


EMPTY, SHORT = jnp.zeros(0, jnp.int32), jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: sums.draw(sums.Sums(0, 2), None), "digits are 0 to 2"),
        (lambda p: sums.draw(sums.Sums(2, 4), None), "digits are 2 to 4"),
        (lambda p: sums.prompt(p, hint=4), "hint is 4; expected 0 to 3"),
        (lambda p: chains.encode("1-2"), r"text has \['-'\]"),
        (lambda p: chains.write(None, p, length=9, again=2), "again is 2"),
        (lambda p: sums.check(p, EMPTY), r"tokens has shape \(0,\); expected \[T\]"),
        (lambda p: sums.check(p, EMPTY.reshape(1, 0)), "jax.vmap is for many"),
        (lambda p: sums.check(p, jnp.zeros(0)), "at least one token"),
        (lambda p: sums.check(p, SHORT - 1), "tokens has -1; expected 0 to 20"),
        (lambda p: sums.check(p, SHORT + 21), "tokens has 21; expected 0 to 20"),
        (lambda p: sums.check(p, SHORT, SHORT[:1] > 0), r"mask has shape \(1,\)"),
        (lambda p: sums.check(p, SHORT, jnp.bool_(True)), r"mask has shape \(\)"),
        (lambda p: sums.check(p, SHORT, most=0), "most is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    problem = sums.Problem(*map(jnp.int32, (7, 58, 2)))
    with pytest.raises(ValueError, match=message):
        call(problem)


def test_what_is_no_answer_is_not_parsed():
    """Padding may be any number; what is traced and does not exist is no digit."""
    problem = sums.Problem(*map(jnp.int32, (7, 58, 2)))
    for tokens, keep in (([-5, 99], [False] * 2), ([0, 0, 0], [True] * 3)):
        found = sums.check(problem, jnp.array(tokens), jnp.array(keep))
        assert not found.parsed
        assert found.answer == -1
        assert found.steps == 0
    tokens = jnp.array(chains.encode("#065."))
    check = jax.jit(lambda tokens: sums.check(problem, tokens))
    assert check(tokens).right
    assert not check(tokens.at[1].set(-3)).parsed
    with pytest.raises(TypeError, match="tokens is float32; expected integers"):
        sums.check(problem, tokens.astype(jnp.float32))
