"""The checks of terms, solvers and losses fail on broken ones, by the law's name."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import BASE
from jaxlib_guidance.reduce import LossOut, hide, mask_like, require_shape
from jaxlib_guidance.testing import check_loss, check_sampler, check_term
from jaxlib_guidance.types import (
    Branch,
    expand,
    per_sample,
    pytree_dataclass,
    static,
)


@pytree_dataclass
class Shrink:
    """``delta -= w x0``: the term that the broken ones below are made from."""

    weight: float

    def branches(self, ctx):
        return {}

    def push(self, x0, ctx):
        return per_sample(self.weight, x0) * x0

    def update(self, delta, evals, state, ctx):
        return delta - self.push(evals.x0[BASE] + delta, ctx), state


class NotOff(Shrink):
    def push(self, x0, ctx):
        return super().push(x0, ctx) + 1e-3


class BatchMean(Shrink):
    def push(self, x0, ctx):
        return super().push(x0 - jnp.mean(x0, 0), ctx)


class Neighbour(Shrink):
    def push(self, x0, ctx):
        return super().push(jnp.sort(x0, 0), ctx)


class SpreadsNaN(Shrink):
    def push(self, x0, ctx):
        return super().push(x0, ctx) + 0 * jnp.sum(x0)


class Narrow(Shrink):
    def update(self, delta, evals, state, ctx):
        delta, state = super().update(delta, evals, state, ctx)
        return delta.astype(jnp.bfloat16), state


class Stopped(Shrink):
    def push(self, x0, ctx):
        return jax.lax.stop_gradient(self.weight) * x0


class Known(Shrink):
    def push(self, x0, ctx):
        return float(self.weight) * x0


class Growing(Shrink):
    def init(self, x):
        return jnp.zeros(3)


class Swelling(Shrink):
    def init(self, x):
        return x

    def update(self, delta, evals, state, ctx):
        delta, _ = super().update(delta, evals, state, ctx)
        return delta, (state, state)


class Nothing(Shrink):
    def push(self, x0, ctx):
        return 0 * x0


@pytree_dataclass
class Static(Shrink):
    weight: float = static(default=1.0)


@dataclasses.dataclass
class Thawed:
    weight: float
    branches = Shrink.branches
    push = Shrink.push
    update = Shrink.update


jax.tree_util.register_dataclass(Thawed)
for kind in (
    NotOff, BatchMean, Neighbour, SpreadsNaN, Narrow, Stopped, Known, Growing, Swelling,
    Nothing,
):  # fmt: skip
    pytree_dataclass(kind)


class Elsewhere(Shrink):
    """Its own evaluation is not what the sampler's state says."""

    def branches(self, ctx):
        return {"turned": Branch(jnp.roll(ctx.cond, 1))}

    def update(self, delta, evals, state, ctx):
        contrast = evals.x0[BASE] - evals.x0["turned"]
        return delta + per_sample(self.weight, delta) * contrast, state


pytree_dataclass(Elsewhere)
TERMS = {
    "weight 0 is not off": (NotOff, "weight_zero"),
    "a mean over the batch": (BatchMean, "batch"),
    "a sorted batch": (Neighbour, "devices"),
    "a neighbour's condition": (Elsewhere, "batch"),
    "a sum over the batch": (SpreadsNaN, "nan"),
    "half precision": (Narrow, "half"),
    "a weight without gradient": (Stopped, "gradient"),
    "a weight that must be known": (Known, "weight_sweep"),
    "a state without the batch": (Growing, "state"),
    "a state that changes": (Swelling, "state"),
    "no effect": (Nothing, "acts"),
    "a weight that is no leaf": (Static, "pytree"),
    "a term that can be changed": (Thawed, "pytree"),
}


@contextlib.contextmanager
def breaks(law):
    """For the law's own reason, and not because the broken thing is misspelt."""
    with pytest.raises(AssertionError, match=f"breaks the law '{law}'") as caught:
        yield
    assert not isinstance(caught.value.__cause__, AttributeError | NameError)


@pytest.mark.parametrize("name", TERMS)
def test_broken_terms(name):
    kind, law = TERMS[name]
    with breaks(law):
        check_term(kind(0.5), only=[law])


def test_a_sound_term_passes_and_may_bring_everything():
    check_term(Shrink(0.5))
    check_term(
        Shrink(jnp.linspace(0.5, 1, 5)),
        denoiser=jg.Denoiser(lambda x, t, cond, **_: jg.types.Denoised(jnp.tanh(x))),
        process=jg.RectifiedFlow(),
        x=jnp.linspace(-1, 1, 60).reshape(5, 4, 3),
        only=["acts", "weight_zero", "batch", "jit"],
    )


def test_a_weight_that_only_a_function_knows():
    def late(weight):
        return jg.scheduled(jg.cfg(1.0, 10), lambda ctx: weight)

    with pytest.raises(AssertionError, match="breaks the law 'weight_zero_static'"):
        check_term(late, only=["weight_zero_static"])
    with pytest.raises(AssertionError, match="breaks the law 'pytree'"):
        check_term(late, only=["pytree"])
    check_term(late, only=["weight_zero", "gradient"])


def test_a_closed_window_does_not_pass_for_a_term():
    late = jg.during(jg.cfg(1.0, 10), 0.0, 0.5)
    with pytest.raises(AssertionError, match="inside its window"):
        check_term(late, only=["acts"])
    check_term(late, step=0, only=["acts"])


def changed(sampler, change, **fields):
    """A solver whose steps are changed once they are made."""

    def step(denoise, x, state, guidance_state, interval):
        out = sampler.step(denoise, x, state, guidance_state, interval)
        return change(out, x, interval, denoise)

    return sampler._replace(step=step, **fields)


def moved(by):
    def change(out, x, interval, denoise):
        mean = out.transition.mean + by(x, interval)
        return out._replace(transition=out.transition._replace(mean=mean))

    return change


def unseen(out, x, interval, denoise):
    return out._replace(
        transition=out.transition._replace(std=0.1 * interval.end.sigma)
    )


def twice(out, x, interval, denoise):
    denoise(x, interval.t, out.guidance_state)
    return out


def narrow(out, x, interval, denoise):
    return out._replace(x0=out.x0.astype(jnp.bfloat16))


def negative(out, x, interval, denoise):
    return out._replace(transition=out.transition._replace(std=-interval.end.sigma))


def one_key(x, interval):
    return 0.1 * jax.random.normal(jax.random.key(0), x.shape)


def root_of_nothing(x, interval):
    return expand(jnp.sqrt(jnp.sum(x - x, 1)), x)


def counting():
    """Not a function of its arguments alone."""
    calls = iter(range(1000))
    return lambda x, interval: 0.1 * next(calls)


def known_time(x, interval):
    return x * float(interval.t)


def same(out, *_):
    return out


DDIM, DDPM = jg.ddim(), jg.ddpm()
SAMPLERS = {
    "noise without the flag": (changed(DDIM, unseen), "stochastic"),
    "the flag without noise": (changed(DDIM, same, stochastic=True), "stochastic"),
    "a negative deviation": (changed(DDPM, negative), "transition"),
    "two evaluations for one": (changed(DDIM, twice), "evaluations"),
    "one evaluation for two": (changed(DDIM, same, evaluations=2), "evaluations"),
    "a mean over the batch": (
        changed(DDIM, moved(lambda x, i: 0.1 * jnp.mean(x, 0))),
        "batch",
    ),
    "a sum over the batch": (
        changed(DDIM, moved(lambda x, i: 0 * jnp.sum(x))),
        "nan",
    ),
    "one key for the batch": (changed(DDIM, moved(one_key)), "batch"),
    "a maximum over the batch": (
        changed(DDIM, moved(lambda x, i: 0.1 * jnp.max(x))),
        "devices",
    ),
    "an infinite derivative": (changed(DDIM, moved(root_of_nothing)), "gradient"),
    "a gradient that stops": (
        changed(DDIM, moved(lambda x, i: jax.lax.stop_gradient(x) * 0.1)),
        "gradient",
    ),
    "a time that must be known": (changed(DDIM, moved(known_time)), "one_compilation"),
    "noise by the number of calls": (changed(DDIM, moved(counting())), "pieces"),
    "half precision": (changed(DDIM, narrow), "half"),
    "said to be reversible": (changed(DDPM, same, reversible=True), "reversible"),
    "wrong where noise grows": (
        changed(
            DDIM,
            moved(lambda x, i: jnp.where(i.t_next > i.t, 0.1, 0.0)),
        ),
        "reversible",
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_broken_solvers(name):
    sampler, law = SAMPLERS[name]
    with breaks(law):
        check_sampler(sampler, only=[law])


def test_an_order_that_is_not_reached():
    with pytest.raises(AssertionError, match=r"are order 1\.\d+; stated is 2"):
        check_sampler(DDIM, order=2, only=["order"])


def per_token(logp, advantage, mask):
    """The loss that the broken ones below are made from."""
    require_shape("advantage", advantage, jnp.shape(logp))
    advantage = jax.lax.stop_gradient(hide(advantage, mask))
    return -advantage * hide(logp, mask)


def leaks(logp, advantage, mask):
    return -jax.lax.stop_gradient(advantage) * logp * mask


def flows(logp, advantage, mask):
    return -hide(advantage, mask) * hide(logp, mask)


def narrows(logp, advantage, mask):
    loss = per_token(logp, advantage, mask)
    return loss.astype(jnp.result_type(logp))


def in_half(logp, advantage, mask):
    return -hide(logp * jax.lax.stop_gradient(advantage), mask)


def centred(logp, advantage, mask):
    return per_token(
        logp, hide(advantage, mask) - jnp.mean(hide(advantage, mask)), mask
    )


def ordered(logp, advantage, mask):
    return per_token(logp, advantage, mask) * jnp.arange(1.0, 1 + len(logp))[:, None]


def broadcasts(logp, advantage, mask):
    return per_token(logp, jnp.broadcast_to(jnp.mean(advantage), logp.shape), mask)


def known_values(logp, advantage, mask):
    return per_token(logp, advantage, mask) * float(mask[0, 0])


def stopped(logp, advantage, mask):
    loss = per_token(logp, advantage, mask)
    return loss + jax.lax.stop_gradient(loss)


def double_division(logp, advantage, mask):
    weight = jnp.sum(mask_like(mask, logp))
    total = jnp.sum(per_token(logp, advantage, mask)) / jnp.maximum(weight, 1)
    return LossOut(total, weight)


def empty_mean(logp, advantage, mask):
    return per_token(logp, advantage, mask) / jnp.sum(mask)


def flat(logp, advantage, mask):
    return 0 * per_token(logp, advantage, mask)


LOSSES = {
    "a mask that multiplies": (leaks, "masked"),
    "a mean of nothing": (empty_mean, "nothing"),
    "a gradient to the advantage": (flows, "constants"),
    "half precision out": (narrows, "half"),
    "half precision inside": (in_half, "half"),
    "a mean over the batch": (centred, "split"),
    "divided twice": (double_division, "split"),
    "a factor by the row": (ordered, "permutation"),
    "any shape": (broadcasts, "shapes"),
    "values that must be known": (known_values, "jit"),
    "half of the gradient": (stopped, "gradient"),
    "always 0": (flat, "contract"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_broken_losses(name):
    loss, law = LOSSES[name]
    with breaks(law):
        check_loss(loss, constants=["advantage"], only=[law])


def test_a_sound_loss_passes():
    check_loss(per_token, constants=["advantage"])


def test_a_skip_needs_a_law_a_reason_and_a_breach():
    with pytest.raises(AssertionError, match="obeys the law 'batch', which is skipped"):
        check_term(Shrink(0.5), only=["batch"], skip={"batch": "I thought so"})
    check_term(BatchMean(0.5), only=["batch"], skip={"batch": "it is a mean"})
    with pytest.raises(ValueError, match=r"skip names \['none'\]; expected some of"):
        check_term(Shrink(0.5), skip={"none": "no such law"})
    with pytest.raises(ValueError, match=r"gives no reason for \['batch'\]"):
        check_term(Shrink(0.5), skip={"batch": ""})
    with pytest.raises(ValueError, match=r"only names \['none'\]"):
        check_sampler(DDIM, only=["none"])
    with pytest.raises(ValueError, match="which only leaves out"):
        check_sampler(DDIM, only=["batch"], skip={"jit": "slow"})


def test_inputs_that_are_not_known_are_asked_for():
    with pytest.raises(ValueError, match=r"inputs lacks \['surprise'\]"):
        check_loss(lambda surprise: surprise)
    with pytest.raises(ValueError, match=r"has \['other'\]"):
        check_loss(per_token, inputs={"other": 1.0})
    with pytest.raises(ValueError, match=r"name \['other'\]"):
        check_loss(per_token, constants=["other"])
    check_loss(
        functools.partial(lambda surprise, by: by * hide(surprise, None) ** 2, by=2.0),
        inputs={"surprise": jnp.linspace(-1, 1, 4)},
    )
    with pytest.raises(ValueError, match="at least 4"):
        check_term(Shrink(1.0), x=jnp.ones((2, 3)))
