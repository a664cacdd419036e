"""What callers give is checked where it is given, and errors say what was expected."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.calls import denoisers_of, process_of, require_callable
from jaxlib_guidance.guidance.posterior import freedom
from jaxlib_guidance.sampling import sample_particles, steering, twisted

DENOISER = jg.parametrize(lambda x, t, cond: jnp.tanh(x), jg.VPCosine())


class Called:
    def __call__(self, x, *rest):
        return x


@functools.wraps(abs)
def decorated(a, b):
    """Takes more than what it wraps."""
    return a


def test_the_note_never_hides_the_error():
    def network(x, t, cond):
        raise KeyError("missing weight")

    denoiser = jg.parametrize(network, jg.VPCosine())
    for cond in (np.array(["a"]), object(), "text"):
        with pytest.raises(KeyError, match="missing weight"):
            denoiser(jnp.ones((1, 2)), 0.5, cond)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a,
        lambda *args: args,
        lambda a, b, c=0: a,
        functools.partial(lambda p, a, b: a, 0),
        jax.jit(lambda a, b: a),
        Called(),
        decorated,
        jax.jit(decorated),
        functools.partial(decorated),
        max,  # A signature that Python cannot tell.
        np.add,
    ],
)
def test_a_function_that_can_be_called_passes(function):
    require_callable(function, "it", ("a", "b"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, r"it is 3; expected a function of \(a, b\)"),
        (lambda a: a, r"it takes \(a\); expected a function of \(a, b\)"),
        (lambda a, b, c: a, r"it takes \(a, b, c\); expected"),
        (lambda a, b, *, c: a, r"it takes \(a, b, \*, c\); expected"),
        (jax.jit(lambda a: a), r"it takes \(a\); expected"),
    ],
)
def test_a_function_of_other_arguments_is_refused(function, message):
    with pytest.raises(TypeError, match=message):
        require_callable(function, "it", ("a", "b"))


@pytest.mark.parametrize("make", [jg.energy, steering, twisted])
def test_an_energy_takes_its_parameters_where_it_has_some(make):
    name = make.__name__
    with pytest.raises(TypeError, match=rf"{name}'s function takes \(x\); .*x0, ctx"):
        make(lambda x: x)
    with pytest.raises(TypeError, match=r"takes \(x, ctx\); .*\(params, x0, ctx\)"):
        make(lambda x, ctx: x, params={"scale": 1.0})


@pytest.mark.parametrize("network", [lambda x, t: x, lambda params, x, t, cond: x])
def test_a_network_of_other_arguments_is_refused(network):
    with pytest.raises(TypeError, match=r"network takes .*\(x, c_noise, cond\)"):
        jg.parametrize(network, jg.VPCosine())


@pytest.mark.parametrize("cond", [None, {"label": np.arange(4, dtype=np.int32)}])
def test_an_error_of_the_network_says_what_it_was_called_with(cond):
    def network(x, t, cond):
        return x * cond[:, None]

    denoiser = jg.parametrize(network, jg.VPCosine())
    keys = jg.sample_keys(jax.random.key(0), 4)
    with pytest.raises(Exception) as raised:
        jg.sample(keys, denoiser, jg.ddim(), [0.9, 0], (2,), cond)
    said = "None" if cond is None else "['label'] int32(4,)"
    note = f"called with x float32(4, 2), c_noise float32(4,), cond {said}."
    assert any(note in each for each in raised.value.__notes__)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda x, t, cond: x, "denoiser is function; expected a Denoiser"),
        ((), "denoiser is tuple; expected a Denoiser"),
        ((DENOISER, 3), "denoiser holds int; expected Denoisers"),
    ],
)
def test_denoisers_are_denoisers(given, message):
    for take in (denoisers_of, process_of):
        with pytest.raises(TypeError, match=message):
            take(given)
    assert denoisers_of(DENOISER) == denoisers_of([DENOISER]) == (DENOISER,)


def test_arguments_in_the_wrong_order_are_named():
    keys = jg.sample_keys(jax.random.key(0), 4)
    with pytest.raises(TypeError, match="keys is Denoiser; expected typed keys"):
        jg.calibrate(DENOISER, keys, 4, (2,))
    pair = jg.recommended(DENOISER.process, 4)
    with pytest.raises(TypeError, match=r"sampler is Recommended.*sampler, grid ="):
        jg.sample(keys, DENOISER, pair, pair.grid, (2,))


def energy(function):
    keys = jg.sample_keys(jax.random.key(0), 4)
    guidance = jg.energy(function)
    return jg.sample(keys, DENOISER, jg.ddim(), [0.9, 0], (2,), guidance=guidance)


def loss(function):
    keys = jg.sample_keys(jax.random.key(0), 4)
    guidance = freedom(function)
    return jg.sample(keys, DENOISER, jg.ddim(), [0.9, 0], (2,), guidance=guidance)


def rewarded(function, potential=steering):
    keys = jg.sample_keys(jax.random.key(0), 1)
    run = keys, DENOISER, jg.ddpm(), [0.9, 0], (2,)
    return sample_particles(*run, potential=potential(function), particles=4)


def likely(function):
    return rewarded(function, twisted)


@pytest.mark.parametrize(
    ("value", "got"), [((1, 2), "tuple"), (1.0, "float"), ("all", r"shape \(\)")]
)
def test_an_energy_is_one_number_a_sample(value, got):
    def function(x, ctx):
        return jnp.sum(x) if value == "all" else value

    for guided in (energy, loss, rewarded, likely):
        with pytest.raises(ValueError, match=f"returned {got}; expected one number"):
            guided(function)


def test_an_energy_of_whole_numbers_has_no_gradient():
    for guided in (energy, loss, likely):
        with pytest.raises(TypeError, match="returned int32; expected floats"):
            guided(lambda x, ctx: (x[:, 0] > 0).astype(jnp.int32))
    with pytest.raises(TypeError, match="returned complex64; expected real"):
        rewarded(lambda x, ctx: jax.lax.complex(x[:, 0], x[:, 0]))
    # A reward that only weighs may count.
    out = rewarded(lambda x, ctx: (x[:, 0] > 0).astype(jnp.int32))
    assert jnp.isfinite(out.log_z).all()


def test_a_reference_that_is_not_finite_names_what_it_depends_on():
    denoiser = jg.parametrize(lambda x, t, cond: x / 0, jg.VPCosine())
    keys = jg.sample_keys(jax.random.key(0), 4)
    with pytest.raises(FloatingPointError, match="finite, 4 of 4: the network may be"):
        jg.calibrate(keys, denoiser, 2, (2,))
    guidance = jg.energy(lambda x, ctx: jnp.sum(x, 1) / 0)
    with pytest.raises(FloatingPointError, match="or its guidance"):
        jg.calibrate(keys, DENOISER, 2, (2,), guidance=guidance)
