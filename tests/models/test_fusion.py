"""Several experts as one: the formula in numpy, its limits, what is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance import models

RNG = np.random.default_rng(0)
LOGITS = (2 * RNG.normal(size=(5, 3, 4))).astype(np.float32)
MASK = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0.5, 2, 1], [1, 1, 0]], np.float32)
ALL = np.ones_like(MASK)
WAYS = [(c, p) for c in ("probability", "entropy") for p in ("mixture", "product")]


@jax.jit
def fused(logits, mask, tau=1.0):
    """Of each way weights and log-probabilities: one compilation a shape."""

    def way(confidence, pool):
        options = {"confidence": confidence, "temperature": tau}
        return (
            models.fusion_weights(logits, mask, **options),
            models.probability_fusion(logits, mask, **options, pool=pool),
        )

    return {each: way(*each) for each in WAYS}


@jax.jit
def slopes(logits, mask):
    def total(x):
        made = fused(x, mask)
        # Where the sum of log-probabilities is NaN or infinite it is left out.
        return sum(jnp.where(jnp.isfinite(p), p, 0).sum() for _, p in made.values())

    return jax.grad(total)(logits)


def log(p):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(p, np.float32))


def one(logits, mask, tau, confidence, pool):
    """A sample, in probabilities and float64, expert by expert."""
    ps, scores = [], []
    for row, factor in zip(logits.astype(np.float64), mask, strict=True):
        p = np.exp(row) / np.exp(row).sum()
        if confidence == "probability":
            score = p.max() ** (1 / tau)
        else:
            score = np.exp(sum(q * np.log(q) for q in p) / tau)
        ps.append(p)
        scores.append(factor * score)
    w = np.array(scores) / sum(scores)
    if pool == "mixture":
        return w, np.log(sum(a * p for a, p in zip(w, ps, strict=True)))
    joined = np.prod([p**a for a, p in zip(w, ps, strict=True)], 0)
    return w, np.log(joined / joined.sum())


def test_it_is_the_formula():
    for tau, mask in ((1.0, ALL), (0.3, MASK)):
        made = fused(LOGITS, mask, tau)
        for way, (weights, found) in made.items():
            rows = zip(LOGITS, mask, strict=True)
            expected = [one(*row, tau, *way) for row in rows]
            np.testing.assert_allclose(weights, [w for w, _ in expected], atol=1e-6)
            np.testing.assert_allclose(found, [p for _, p in expected], atol=1e-5)
            assert found.dtype == weights.dtype == jnp.float32
    # Weights of one's own are shares.
    found = models.weighted_experts(LOGITS[0], np.array([2.0, 1, 5]))
    p = np.asarray(jax.nn.softmax(LOGITS[0]))
    np.testing.assert_allclose(np.exp(found), np.array([2, 1, 5]) / 8 @ p, rtol=1e-5)
    # Log-probabilities are logits, and no mask is a mask of ones.
    again = models.probability_fusion(jax.nn.log_softmax(LOGITS))
    np.testing.assert_allclose(again, fused(LOGITS, ALL)[WAYS[0]][1], atol=1e-6)


def test_equal_confidences_give_the_mean_and_certain_experts_are_alone():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]], np.float32)
    for (_, pool), (_, found) in fused(log(p), ALL[0], 0.1).items():
        mean = p.mean(0) if pool == "mixture" else np.full(3, 1 / 3)
        np.testing.assert_allclose(np.exp(found), mean, atol=1e-6)
    p = np.array([[0.7, 0.3, 0], [0.4, 0.3, 0.3], [0.5, 0.5, 0]], np.float32)
    _, mean = fused(log(p), ALL[0], jnp.inf)["probability", "mixture"]
    np.testing.assert_allclose(np.exp(mean), p.mean(0), atol=1e-6)
    # Towards temperature 0 the surest is left.
    for _, found in fused(log(p), ALL[0], 1e-3).values():
        np.testing.assert_allclose(np.exp(found), p[0], atol=1e-6)
    # In a product a certain one needs no weight to have its class.
    certain = log([[0, 1, 0], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1]])
    _, found = fused(certain, ALL[0], jnp.inf)["probability", "product"]
    np.testing.assert_allclose(np.exp(found), [0, 1, 0], atol=1e-6)


def test_missing_experts_are_as_if_never_there():
    made, order = fused(LOGITS, MASK), np.array([2, 0, 1])
    moved = fused(LOGITS[:, order], MASK[:, order])
    fewer = fused(LOGITS[1, [0, 2]], ALL[0, :2])
    changed = LOGITS.copy()
    changed[np.arange(5) != 2] *= 3
    others = fused(changed, MASK)
    for way, (_, found) in made.items():
        np.testing.assert_allclose(moved[way][1], found, atol=1e-6)
        np.testing.assert_allclose(fewer[way][1], found[1], atol=1e-6)
        np.testing.assert_array_equal(others[way][1][2], found[2])
    for hidden in (np.nan, np.inf, -np.inf):  # With a mask, and by themselves.
        spoilt = LOGITS.copy()
        spoilt[1, 1] = hidden
        masked, bare = fused(spoilt, MASK), fused(spoilt, ALL)
        for way, (_, found) in made.items():
            np.testing.assert_array_equal(masked[way][1], found)
            np.testing.assert_allclose(bare[way][1][1], found[1], atol=1e-6)
            np.testing.assert_array_equal(bare[way][0][1, 1], 0)
        slope = slopes(spoilt, ALL)
        assert jnp.isfinite(slope).all()
        np.testing.assert_array_equal(slope[1, 1], 0)
        assert (slope[1, 0] != 0).any()
    # Nothing is known of a sample: NaN, which reaches no other and no gradient.
    nothing = ALL.copy()
    nothing[0] = 0
    for weights, found in fused(LOGITS, nothing).values():
        np.testing.assert_array_equal(np.isnan(found).all(1), np.arange(5) == 0)
        np.testing.assert_array_equal(weights[0], 0)
    slope = slopes(LOGITS, nothing)
    assert jnp.isfinite(slope).all()
    np.testing.assert_array_equal(slope[0], 0)


def test_excluded_classes():
    logits = log([[0.5, 0.5, 0, 0], [0.2, 0, 0.8, 0]])
    made = fused(logits, ALL[0, :2], jnp.inf)
    mixture, product = (np.exp(made["entropy", p][1]) for p in ("mixture", "product"))
    np.testing.assert_allclose(mixture, [0.35, 0.25, 0.4, 0], atol=1e-6)
    np.testing.assert_allclose(product, [1, 0, 0, 0], atol=1e-6)
    # Masking the other takes its veto away.
    for _, found in fused(logits, np.array([0, 3], np.float32)).values():
        np.testing.assert_allclose(np.exp(found), [0.2, 0, 0.8, 0], atol=1e-6)
    assert jnp.isfinite(slopes(logits, ALL[0, :2])).all()
    apart = log([[1, 0, 0, 0], [0, 1, 0, 0]])
    for (_, pool), (_, found) in fused(apart, ALL[0, :2]).items():
        if pool == "product":
            assert jnp.isnan(found).all()
        else:
            np.testing.assert_allclose(np.exp(found), [0.5, 0.5, 0, 0], atol=1e-6)
    assert jnp.isfinite(slopes(apart, ALL[0, :2])).all()


def test_half_precision_and_large_logits():
    half = LOGITS.astype(jnp.bfloat16)
    for way, (weights, found) in fused(half, MASK).items():
        wide = fused(half.astype(np.float32), MASK)[way]
        assert weights.dtype == found.dtype == jnp.float32
        np.testing.assert_allclose(found, wide[1], atol=1e-6)
    # A probability whose exponential float32 would take for 0.
    far = np.array([[300, 0, 0, 0], [0, 300, 0, 0]], np.float32)
    found = fused(far, np.array([1, 0], np.float32))["probability", "mixture"][1]
    np.testing.assert_allclose(found, [0, -300, -300, -300], atol=1e-4)


def test_a_mask_of_float64_leaves_weights_as_wide_as_logits():
    jax.config.update("jax_enable_x64", True)
    try:
        weights = models.fusion_weights(LOGITS, MASK.astype(np.float64))
    finally:
        jax.config.update("jax_enable_x64", False)
    assert weights.dtype == jnp.float32


def test_fused_classifiers_guide_as_one():
    def classifier(x, t):
        return jnp.stack([x[:, 0], -x[:, 0]], 1)

    def lost(x, t):
        return jnp.full((len(x), 2), jnp.nan)

    def both(x, t):
        logits = jnp.stack([classifier(x, t), lost(x, t)], 1)
        return models.probability_fusion(logits)

    @jax.jit
    def draw(keys):
        denoiser = jg.parametrize(lambda x, t, cond: 0 * x, jg.VE())
        return [
            jg.sample(
                keys,
                denoiser,
                jg.ddim(),
                [1.0, 0.5],
                (1,),
                guidance=jg.classifier_guidance(each, 2.0, labels=1),
            )[0]
            for each in (classifier, both)
        ]

    one, fused = draw(jg.sample_keys(jax.random.key(0), 3))
    assert (jnp.diff(one, axis=0) != 0).all()
    np.testing.assert_allclose(fused, one, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: models.fusion_weights(LOGITS[0, 0]),
            ValueError,
            r"logits have shape \(4,\)",
        ),
        (lambda: models.fusion_weights(LOGITS[:, :0]), ValueError, r"\[..., M, C\]"),
        (lambda: models.probability_fusion([*LOGITS]), TypeError, "logits is a list"),
        (
            lambda: models.fusion_weights(LOGITS, MASK.tolist()),
            TypeError,
            "mask is a list",
        ),
        (
            lambda: models.fusion_weights(LOGITS, np.full_like(MASK, np.inf)),
            ValueError,
            "mask has values from",
        ),
        (
            lambda: models.fusion_weights(LOGITS, MASK[0]),
            ValueError,
            r"mask has shape \(3,\); expected \(5, 3\)",
        ),
        (
            lambda: models.fusion_weights(LOGITS, -MASK),
            ValueError,
            "mask has values from -2",
        ),
        (
            lambda: models.fusion_weights(LOGITS, temperature=0.0),
            ValueError,
            "temperature is 0.0; expected a number above 0",
        ),
        (
            lambda: models.fusion_weights(LOGITS, temperature=float("nan")),
            ValueError,
            "temperature is nan",
        ),
        (
            lambda: models.fusion_weights(LOGITS, temperature=np.ones(3)),
            ValueError,
            r"temperature has shape \(3,\)",
        ),
        (
            lambda: models.fusion_weights(LOGITS, confidence="margin"),
            ValueError,
            r"confidence is 'margin'; expected one of \('probability', 'entropy'\)",
        ),
        (
            lambda: models.probability_fusion(LOGITS, pool="sum"),
            ValueError,
            r"pool is 'sum'; expected one of \('mixture', 'product'\)",
        ),
        (
            lambda: models.weighted_experts(LOGITS, MASK.T),
            ValueError,
            r"weights has shape \(3, 5\)",
        ),
        (
            lambda: models.weighted_experts(LOGITS, -MASK),
            ValueError,
            "weights has values",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
