import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlib_guidance as jg
from jaxlib_guidance.guidance import cfg_pp, terminal_repair

PROCESS = jg.VPCosine()
MEANS = jnp.asarray([0.4, -0.7])


def classes(x, t, cond, *, control, capture):
    """The exact denoiser of N(mean of the label, 1 / 4) of each number."""
    alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
    gain = alpha / 4 / (alpha**2 / 4 + sigma**2)
    mean = MEANS[cond][:, None]
    return jg.types.Denoised(mean + gain * (x - alpha * mean))


@pytest.mark.exact("CFG++ is cfg at the scale S(lambda, step), which renoises with u")
def test_cfg_pp_renoises_with_the_unconditional_noise():
    """The paper's algorithm 2, written down, against DDIM under the schedule."""
    grid = jg.uniform_grid(PROCESS, 5)
    keys, cond = jg.sample_keys(jax.random.key(0), 3), jnp.zeros(3, int)
    share = jnp.asarray([0.2, 0.6, 1.0])
    _, seen = jg.sample(
        keys,
        jg.Denoiser(classes),
        jg.ddim(),
        grid,
        (4,),
        cond,
        guidance=cfg_pp(share, 1),
        process=PROCESS,
        trace=lambda info: (info.x, info.x_next),
    )
    for i, (before, after) in enumerate(zip(*seen, strict=True)):
        t = jnp.full(3, grid[i])
        c, u = (
            classes(before, t, label, control={}, capture=()).x0
            for label in (cond, cond + 1)
        )
        eps = (before - PROCESS.alpha(grid[i]) * u) / PROCESS.sigma(grid[i])
        clean = u + share[:, None] * (c - u)
        want = PROCESS.alpha(grid[i + 1]) * clean + PROCESS.sigma(grid[i + 1]) * eps
        np.testing.assert_allclose(after, want, rtol=1e-4, atol=1e-5)


def test_cfg_pp_golden(context, lookup, guided):
    """From (0.6, 0.8) to (0.8, 0.6) a share of 0.6 is the scale 1.371429."""
    t, t_next = (jnp.float32(2 / np.pi * np.arccos(a)) for a in (0.6, 0.8))
    ctx = context(PROCESS, jnp.zeros((1, 1)), t, jnp.zeros(1, int))
    net = lookup([[1.0], [0.0]])
    got, _ = guided(cfg_pp(0.6, 1), net, ctx._replace(t_next=t_next))
    np.testing.assert_allclose(got, [[1.371429]], rtol=1e-5)
    last, _ = guided(cfg_pp(0.6, 1), net, ctx._replace(t_next=jnp.float32(0)))
    np.testing.assert_allclose(last, [[0.6]], rtol=1e-5)


@pytest.mark.exact(
    "A step ends at c + r (y - c) + (r^S - r) (u - c), a short one as with cfg"
)
def test_terminal_repair_golden():
    """y = (1, 2, -1), r = 0.5, scale 3: (1.875, 0.625, 0.375); cfg in short steps."""
    rows = jnp.asarray([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]])

    def apply(x, t, cond, *, control, capture):
        return jg.types.Denoised(rows[cond])

    def step(guidance, end):
        keys, x = jg.sample_keys(jax.random.key(0), 1), jnp.asarray([[1.0, 2.0, -1.0]])
        net, label = jg.Denoiser(apply, process=jg.VE()), jnp.ones(1, int)
        return jg.sample(keys, net, jg.ddim(), [2.0, end], x, label, guidance=guidance)[
            0
        ][0]

    np.testing.assert_allclose(
        step(terminal_repair(2.0, 0), 1.0), (1.875, 0.625, 0.375), rtol=1e-6
    )
    last = step(terminal_repair(2.0, 0), 0.0)
    np.testing.assert_allclose(last, rows[1], rtol=1e-6)
    short, plain = (step(make(2.0, 0), 1.998) for make in (terminal_repair, jg.cfg))
    np.testing.assert_allclose(short, plain, atol=1e-5)
