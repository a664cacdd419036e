"""Any two methods of the catalogue go together: jit, vmap and grad, without NaN."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import METHODS
from jaxlib_guidance.testing._term_case import TermCase, default_state

NAMES = list(METHODS)
# Arguments of methods whose networks, in checks, have labels for a condition.
LABELLED = {"sites", "site", "joins", "features", "classes", "classifier"}


def condition(one, other):
    """What both are given: labels, or numbers for a method that edits them; None if
    no network here has both."""
    rows = METHODS[one], METHODS[other]
    if not any(row.vector for row in rows):
        return "labels"
    names = {name for row in rows for name in inspect.signature(row.make).parameters}
    return None if names & LABELLED else "numbers"


SAMPLE = [
    (NAMES[i], NAMES[(3 * i + 1) % len(NAMES)])
    for i in range(0, 15, 3)
    if condition(NAMES[i], NAMES[(3 * i + 1) % len(NAMES)])
]


def require_together(one, other):
    kind, rows = condition(one, other), (METHODS[one], METHODS[other])
    try:
        require_finite(rows, kind)
    except ValueError as error:
        # Two that look elsewhere under one name are told to take names of their own.
        if "give one of them another name" not in str(error):
            raise
        require_finite((rows[0], renamed(rows[1])), kind)


def renamed(row):
    """The method with other names for its branches."""
    parameters = inspect.signature(row.make).parameters
    if "names" in parameters:
        names = (n if n == "uncond" else "other" for n in parameters["names"].default)
        return dataclasses.replace(row, example={**row.example, "names": tuple(names)})
    assert "name" in parameters, row.name
    return dataclasses.replace(row, example={**row.example, "name": "other"})


def require_finite(rows, kind):
    shape = max(map(jg.testing.method_shape, rows), key=len)

    def made(weight, *rows):
        # Of other strengths: some are the opposite of others.
        each = zip(rows, (1.0, 0.7), strict=False)
        terms = (jg.testing.method_term(n, k * weight, shape) for n, k in each)
        return jg.chain(*terms)

    def both(weight):
        return made(weight, *rows)

    x = default_state(shape)
    cond = default_state((3,)) if kind == "numbers" else None
    case = TermCase(both, None, None, x, cond, None, t=0.5, step=1, steps=2)

    def total(weight):
        x0, _, _ = case.evaluate(both(weight), case.rows, x)
        return jnp.sum(x0**2), x0

    graded = jax.jit(jax.vmap(jax.value_and_grad(total, has_aux=True)))
    (_, x0), slopes = graded(jnp.asarray([0.0, 0.5, 1.0]))
    assert np.isfinite(x0).all()
    assert np.isfinite(slopes).all()
    if np.abs(x0[1] - x0[2]).max() > 1e-5:
        return
    # Nothing comes of two that do nothing here, such as those that wait for a past.
    for row in rows:
        alone = [case.evaluate(made(w, row), case.rows, x)[0] for w in (0.5, 1.0)]
        assert np.abs(alone[0] - alone[1]).max() < 1e-4


@pytest.mark.parametrize("pair", [*SAMPLE, ("cads", "cfg")], ids="+".join)
def test_some_pairs(pair):
    require_together(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_pairs(name):
    for other in NAMES[NAMES.index(name) :]:
        if condition(name, other) is not None:
            require_together(name, other)
