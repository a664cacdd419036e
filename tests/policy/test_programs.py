"""Designed rewards: optima of linear programs, judged by value iteration."""

import jax
import numpy as np
import pytest

from jaxlib_guidance.policy import (
    adapt_reward,
    align_reward,
    design_reward,
    dynlin_step,
    informativeness,
    init_dynlin,
    select_states,
)
from jaxlib_guidance.worlds import grids, tables

GAMMA = 0.9


@pytest.fixture(scope="module")
def task():
    table = grids.chain(6, start=1)
    return table, jax.jit(tables.solve)(table)


def given(task):
    table, found = task
    return (
        np.asarray(table.transitions),
        np.asarray(found.policy),
        np.asarray(found.gap),
    )


def limits(task):
    return {"gamma": GAMMA, "optimal": np.asarray(task[1].optimal)}


@pytest.mark.parametrize("states", [(5,), (5, 1), (0, 1, 2, 3, 4, 5)])
def test_the_design_is_the_most_informative(task, states):
    """Its objective is `informativeness`; nothing feasible near it has more."""
    table, found = task
    active = np.isin(np.arange(7), states)
    designed = design_reward(*given(task), **limits(task), active=active, r_max=2.0)
    p, policy, gap = given(task)
    score = jax.jit(
        lambda r: informativeness(
            r, p, policy, gap / (1 + 1e-5), gamma=GAMMA, optimal=found.optimal
        )
    )
    r = designed.rewards
    np.testing.assert_allclose(score(r), designed.objective, atol=1e-6)
    assert not np.any(r[~active])
    assert np.abs(r).max() <= 2 + 1e-9
    assert designed.objective >= float(score(np.asarray(table.rewards))) - 1e-6

    def feasible(r):
        """Value iteration: the policy is optimal by the gap, under the reward."""
        v = np.zeros(7)
        for _ in range(400):
            q = r + GAMMA * p @ v
            v = q[np.arange(7), policy]
        lead = v[:, None] - q
        least = np.where(found.optimal, 0, gap[:, None] / (1 + 1e-5))
        return np.all(lead >= least - 1e-6)

    assert feasible(r)
    gen = np.random.default_rng(0)
    tried = 0
    for scale in np.repeat([1e-3, 1e-2, 1e-1], 100):
        near = np.clip(r + scale * active[:, None] * gen.normal(size=r.shape), -2, 2)
        if feasible(near):
            tried += 1
            assert score(near.astype(np.float32)) <= designed.objective + 1e-6
    assert tried


def test_with_all_states_the_design_is_as_informative_as_can_be(task):
    active = np.arange(7) < 6
    found = design_reward(*given(task), **limits(task), active=active)
    np.testing.assert_allclose(found.objective, 0, atol=1e-9)


def test_a_budget_buys_informativeness(task):
    """Greedy: the best first state, then the best with it; more is never less."""
    states, designed = select_states(
        *given(task), budget=2, chosen=[5], candidates=range(6), **limits(task)
    )
    assert states[0] == 5
    assert len(set(states)) == 3
    pairs = [
        design_reward(
            *given(task), **limits(task), active=np.isin(np.arange(7), (5, s))
        ).objective
        for s in range(5)
    ]
    assert states[1] == int(np.argmax(pairs))
    alone, first = select_states(*given(task), budget=0, chosen=[5], **limits(task))
    assert alone == [5]
    assert first.objective < max(pairs) < designed.objective


def test_ties_stay_ties():
    """Two optimal actions are worth the same under the design, by either policy."""
    table = grids.chain(4, start=1)
    p = np.concatenate([table.transitions, table.transitions[:, 1:]], axis=1)
    found = jax.jit(tables.solve)(
        tables.Table(
            p,
            np.concatenate([table.rewards, table.rewards[:, 1:]], axis=1),
            table.start,
            table.terminal,
            table.gamma,
        )
    )
    both = np.array([[1] * 5, [2] * 5])
    designed = design_reward(p, both, found.gap, gamma=GAMMA, optimal=found.optimal)
    r = designed.rewards[:4]
    np.testing.assert_allclose(r[:, 1], r[:, 2], atol=1e-8)
    got = informativeness(
        designed.rewards, p, both, np.asarray(found.gap) / (1 + 1e-5), gamma=GAMMA
    )
    np.testing.assert_allclose(got, designed.objective, atol=1e-5)


def test_the_adapted_reward_is_where_the_learner_goes(task):
    """Its objective by the paper's formula, above that of the task's own reward."""
    table, found = task
    active = np.arange(7) < 6
    learner = np.full((7, 2), 0.5)
    advantage = np.asarray(found.q - found.values[:, None], float)
    mu = np.asarray(tables.visits(table, jax.nn.one_hot(found.policy, 2)), float)
    mu_l = np.asarray(tables.visits(table, learner.astype(np.float32)), float)

    def adapted(**kwargs):
        return adapt_reward(
            *given(task), learner, advantage, mu, mu_l, **limits(task), **kwargs
        )

    def objective(r):
        total = 0.0
        for s in range(7):
            for a in range(2):
                share = mu[s] * mu_l[s] * learner[s, a] ** 2
                ahead = advantage[s, a] - learner[s] @ advantage[s]
                total += share * ahead * (r[s, a] - learner[s] @ r[s])
        return total

    designed = adapted(active=active, r_max=1.0)
    np.testing.assert_allclose(objective(designed.rewards), designed.objective)
    assert designed.objective > objective(np.asarray(table.rewards, float))
    # One feature: the action, wherever it is taken but at the end.
    features = np.eye(2) * active[:, None, None]
    linear = adapted(features=features, r_max=1.0)
    assert np.ptp(linear.rewards[:6], axis=0).max() < 1e-9
    assert objective(np.asarray(table.rewards)) < linear.objective
    assert linear.objective < designed.objective + 1e-9


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"active": np.zeros(7, bool)}, "no reward of 0 variables"),
        ({"active": np.ones(3, bool)}, "active has shape"),
        ({"r_max": 0.0}, "r_max is 0"),
        ({"horizons": (0,)}, "horizons is 0"),
    ],
)
def test_bad_arguments(task, change, match):
    with pytest.raises(ValueError, match=match):
        design_reward(*given(task), **limits(task), **change)


def test_a_budget_beyond_the_candidates_raises(task):
    with pytest.raises(ValueError, match="budget is 9"):
        select_states(*given(task), budget=9, chosen=[5], **limits(task))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"chosen": [3, 99]}, "chosen is .3, 99.; expected different states, 0 to 6"),
        ({"chosen": [-2]}, "chosen is .-2."),
        ({"candidates": [1, 1]}, "candidates is .1, 1."),
        ({"candidates": [99]}, "candidates is .99."),
        ({"gamma": 1.0}, "gamma is 1.0"),
        ({"horizons": ()}, "horizons is empty"),
    ],
)
def test_states_and_settings_that_are_not_there_are_told(task, options, told):
    settings = limits(task) | {"budget": 1, "chosen": [5]} | options
    with pytest.raises(ValueError, match=told):
        select_states(*given(task), **settings)
    p, policy, gap = given(task)
    with pytest.raises(ValueError, match="policies are of type float64"):
        design_reward(p, policy + 0.7, gap, **limits(task))


def test_no_reward_has_nothing_to_align():
    zeros = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match="phi has the norm 0.0; expected"):
        align_reward(np.sum, lambda theta, phi: phi - theta, zeros, zeros)


def test_a_first_arm_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="state.arm is 99; expected a number in .0, 1"):
        dynlin_step(
            init_dynlin(3, 99), 1.0, np.eye(2, 3, dtype=np.float32), radius=1.0, decay=0
        )
