import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import classifier_guidance, joint_logit

PROCESS = jg.VPCosine()


# Logits (1, 2, 3) and label 2: tau1 e_y - tau2 softmax(tau2 f), arXiv 2310.11311.


@pytest.mark.parametrize(
    ("tau2", "slope"),
    [
        (0.5, (-0.093162, -0.153598, 0.746760)),
        (1.0, (-0.090031, -0.244728, 0.334759)),
        (0.0, (0.0, 0.0, 1.0)),
    ],
)
def test_joint_logit_golden(tau2, slope):
    logits, y = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([2])
    value, gradient = jax.value_and_grad(lambda f: joint_logit(f, y, 1.0, tau2)[0])(
        logits
    )
    np.testing.assert_allclose(gradient[0], slope, atol=2e-6)
    if tau2 == 0.5:
        np.testing.assert_allclose(value, 0.8197303, rtol=1e-6)


@pytest.mark.parametrize("tau2", [1.0, 0.5])
def test_large_logits_do_not_overflow(tau2):
    """Adding 1000 moves the value by 1000 (tau1 - tau2) and not the gradient."""
    f, y = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([2])

    def value(f):
        return joint_logit(f, y, 1.0, tau2)[0]

    near, far = value(f), value(f + 1000)
    np.testing.assert_allclose(far - near, 1000 * (1 - tau2), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(jax.grad(value)(f), jax.grad(value)(f + 1000), atol=1e-4)


def classifier(params, x, t):
    return x @ params / (1 + t[:, None])


@pytest.fixture
def setting(counter, context):
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    params = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    return counter, context(PROCESS, x, 0.3, jnp.array([0, 4, 5])), params


@pytest.mark.exact("A noisy classifier moves the mean by Tweedie's formula")
def test_noisy_classifier_moves_the_mean_by_tweedie(setting, guided):
    """``sigma^2 / alpha grad log p(y | x_t)``; a null label moves nothing."""
    counter, ctx, params = setting
    x0, _ = guided(
        classifier_guidance(classifier, 2.0, None, params), counter.denoiser, ctx
    )
    base, _ = guided(jg.chain(), counter.denoiser, ctx)

    def log_p(x):
        logs = jax.nn.log_softmax(classifier(params, x, ctx.t))
        return logs[0, 0] + logs[1, 4]

    expected = 2.0 * ctx.sigma**2 / ctx.alpha * jax.grad(log_p)(ctx.x)
    assert np.abs(expected[:2]).min() > 1e-3
    np.testing.assert_allclose(x0 - base, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(x0[2], base[2])
    assert counter.rows == [3, 3]


@pytest.mark.parametrize("through", ["noisy", "denoised", "network"])
def test_given_labels_and_temperatures(through, setting, guided):
    """Temperatures are leaves, labels may be given, and the classifier need not have
    parameters: the same as an energy written by hand."""
    counter, ctx, params = setting
    labels = jnp.array([1, 1, 3])
    tau = (jnp.float32(1.5), jnp.float32(0.5))
    mine = classifier_guidance(
        lambda x, t: classifier(params, x, t),
        0.7,
        labels,
        through=through,
        tau1=tau[0],
        tau2=tau[1],
    )

    def function(x, ctx):
        f = classifier(params, x, ctx.t)
        chosen = f[jnp.arange(3), labels]
        return jax.nn.logsumexp(tau[1] * f, axis=1) - tau[0] * chosen

    hand = jg.energy(function, 0.7, through=through)
    np.testing.assert_allclose(
        guided(mine, counter.denoiser, ctx)[0],
        guided(hand, counter.denoiser, ctx)[0],
        rtol=1e-5,
    )


def test_the_same_classifier_compiles_once(setting):
    """Terms built anew, with other weights, labels and parameters."""
    counter, ctx, params = setting

    @jax.jit
    def run(term):
        return jg.guided(counter.denoiser, term)(ctx, ())[0]

    for weight in (0.0, 1.0, 2.0):
        run(classifier_guidance(classifier, weight, jnp.arange(3), params * weight))
    assert counter.rows == [3]


@pytest.mark.parametrize(
    ("labels", "cond", "error", "message"),
    [
        (None, None, ValueError, "cond is NoneType: give labels"),
        (None, {"label": jnp.arange(3)}, ValueError, "cond is dict: give labels"),
        (jnp.ones(3), jnp.arange(3), TypeError, "float32"),
        (jnp.arange(2), jnp.arange(3), ValueError, r"labels have shape \(2,\)"),
    ],
)
def test_labels_that_do_not_fit(labels, cond, error, message, setting, guided):
    counter, ctx, params = setting
    term = classifier_guidance(classifier, 1.0, labels, params, through="denoised")
    with pytest.raises(error, match=message):
        guided(term, counter.denoiser, ctx._replace(cond=cond))


def test_logits_that_do_not_fit(setting, guided):
    counter, ctx, _ = setting
    with pytest.raises(ValueError, match=r"returned shape \(3,\)"):
        guided(classifier_guidance(lambda x, t: x[:, 0]), counter.denoiser, ctx)


def test_labels_that_are_no_class_are_refused_or_nan():
    logits = jnp.ones((3, 4))
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f"y has label {wrong}; expected"):
            joint_logit(logits, jnp.array([0, 1, wrong]))
        found = jax.jit(joint_logit)(logits, jnp.array([0, 1, wrong]))
        np.testing.assert_array_equal(np.isnan(found), [False, False, True])
    with pytest.raises(TypeError, match="y has type float32"):
        joint_logit(logits, jnp.ones(3))
