"""The self-adapting loop: what is kept, what is learned from, and when nothing is."""

import jax
import numpy as np
import pytest

from jaxlib_guidance import planning

KEY = jax.random.key(0)


def loop(keep, start, iterations=3, size=4):
    """Episodes are numbers; those at least 10 succeed, and learning adds their sum."""
    seen = []

    def roll_out(key, params):
        jitter = np.asarray(jax.random.randint(key, (size,), 0, 3))
        values = params + 3 * np.arange(size) + jitter
        return {"value": values, "twice": 2 * values[:, None]}, values >= 10

    def finetune(key, params, episodes):
        assert key.shape == ()
        np.testing.assert_array_equal(2 * episodes["value"], episodes["twice"][:, 0])
        seen.append(episodes["value"].tolist())
        return params + len(episodes["value"])

    made = planning.improve(
        KEY, start, roll_out, finetune, iterations=iterations, keep=keep
    )
    return made, seen


def by_hand(keep, start, iterations=3, size=4):
    params, known, seen, shares, counts = start, [], [], [], []
    for i in range(iterations + 1):
        key = jax.random.fold_in(KEY, 2 * i)
        jitter = np.asarray(jax.random.randint(key, (size,), 0, 3)).tolist()
        values = [params + 3 * j + jitter[j] for j in range(size)]
        shares.append(sum(v >= 10 for v in values) / size)
        if i < iterations:
            known = known + [v for v in values if keep(v >= 10)]
            counts.append(len(known))
            if known:
                seen.append(known)
                params += len(known)
    return params, shares, counts, seen


@pytest.mark.parametrize("start", [0, 4, -30])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_loop_is_one_of_lists(start, filtered):
    keep = (lambda success: success) if filtered else None
    made, seen = loop(keep, start)
    params, shares, counts, known = by_hand(lambda s: s or not filtered, start)
    assert made.params == params
    np.testing.assert_allclose(made.success, shares)
    np.testing.assert_array_equal(made.kept, counts)
    assert seen == known
    if filtered and start == -30:  # Nothing ever succeeds, and nothing is learned.
        assert (made.params, seen) == (start, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations is 0; expected at least 1"),
        (
            {"roll_out": lambda k, p: (np.ones(3), np.ones(2))},
            r"success has shape .2,.",
        ),
        (
            {"roll_out": lambda k, p: ((np.ones(3), np.ones(2)), np.ones(3))},
            r"leaves of \[2, 3\] episodes; expected one number",
        ),
        (
            {"roll_out": lambda k, p: (np.ones(3), np.array([1, 0.5, np.nan]))},
            r"success has \[1. +0.5 +nan\]; expected bools, or 0 and 1",
        ),
        ({"keep": lambda s: s[:1]}, r"keep returned bool .1,.; expected bool .3,."),
        ({"keep": lambda s: s.astype(int)}, "keep returned int64"),
    ],
)
def test_what_is_refused(options, message):
    whole = {
        "roll_out": lambda k, p: (np.ones(3), np.ones(3, bool)),
        "finetune": lambda k, p, e: p,
        "iterations": 1,
    }
    whole |= options
    with pytest.raises(ValueError, match=message):
        planning.improve(KEY, 0, whole.pop("roll_out"), whole.pop("finetune"), **whole)
