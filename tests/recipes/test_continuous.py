"""Benchmarks of docs/continuous.md: at small sizes the tables say the same."""

import jax
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks")]


def test_mates(capsys):
    import mates

    found = mates.main(mates.Config(generations=15, seeds=3, mutations=(0.05,)))
    assert found.error.shape == (3, 3, 1, 3, 15)
    # The best is kept, so the error never grows.
    assert (np.diff(found.error) <= 1e-6).all()
    apart = found.apart[..., -3:].mean((1, 2, 3, 4))
    assert apart[:2].min() > apart[2]
    assert "| quintic | 0.05 | tournament |" in capsys.readouterr().out


def test_hand_over():
    import persistent

    config = persistent.Config(train=600, flight=300, seeds=2, ridges=(1.0,))
    found = persistent.main(config)
    hits, texture, error = np.moveaxis(found, -1, 0)
    stereo, handed, _, _, truth = range(5)
    assert not hits[truth, ..., 1].any()
    assert not hits[[stereo, handed], ..., 0].any()
    assert not texture[stereo, ..., 0].any()
    assert (error[..., 0] > 0).all()


def test_interventions(capsys):
    import interventions

    config = interventions.Config(rounds=3, updates=200, seeds=2, rates=(3e-3,))
    curves = interventions.main(config)
    # A clone of an exact expert walks its way at once; nobody takes over without one.
    assert curves["BC"][0, 0, :, -1, 0].mean() > 0.5
    assert not curves["reward of the goal"][..., 2].any()
    assert "| exact | the expert itself | | 1.00 |" in capsys.readouterr().out


def test_raters(capsys):
    import raters

    config = raters.Config(updates=400, seeds=2, rates=(0.3,), entropies=(0.0, 0.1))
    found = raters.main(config)
    # Where all share the scores, everybody finds the best option.
    for method in ("SPO", "reward model"):
        assert found["shared scores", method][..., -1, 0].min(0).max() < 0.05
    assert "| circle of three | exact" in capsys.readouterr().out


def test_waypoints(capsys):
    import waypoints

    config = waypoints.Config(rounds=2, updates=20, demonstrations=(4, 2), seeds=2)
    curves = waypoints.main(config)
    assert curves.shape == (2, 3, 2, 2, 2, 2)
    assert "| 4 | KAGI |" in capsys.readouterr().out


def test_behaviours():
    import behaviours

    config = behaviours.Config(generations=10, seeds=2, spreads=(0.5,))
    found = behaviours.main(config)
    for places, rewards in found.values():
        assert places.shape == (1, 2, 10, behaviours.YOUNG, 2)
        assert (places >= 0).all()
        assert (places <= 1).all()
        away = np.linalg.norm(places - np.asarray(behaviours.MAZE.goal), axis=-1)
        np.testing.assert_allclose(rewards, np.maximum(1 - away / 0.1, 0), atol=1e-5)
    novel, chance = (found[name][0] for name in ("true place", "random weights"))
    assert behaviours.coverage(novel) > behaviours.coverage(chance)


def test_discounts():
    import discounts

    config = discounts.Config(rounds=3, updates=20, seeds=2, rates=(3e-3,))
    curves = discounts.main(config)
    assert curves.shape == (len(discounts.METHODS), 1, 2, 3, 4)
    np.testing.assert_allclose(curves[0, ..., 2], 0.9)
    # A ramp grows; progress never falls.
    assert (np.diff(curves[-2, ..., 2]) > 0).all()
    assert (np.diff(curves[-1, ..., 3]) >= 0).all()


def test_skills(capsys):
    import skills

    config = skills.Config(
        updates=2, episodes=16, length=10, seeds=2, skills=(1.0,), safeties=(0.3,)
    )
    rows = skills.main(config)
    assert len(rows) == 6
    for row in rows.values():
        goals, told, moved, unsafe = row.T
        # No eight places are nearer than the best, and none farther than the corners.
        assert (goals > 0.13).all()
        assert (goals < 0.77).all()
        for share in (told, moved, unsafe):
            assert (share >= 0).all()
            assert (share <= 1).all()
    assert "| three critics | 1 1 0.3 |" in capsys.readouterr().out


def test_experts(capsys):
    import experts

    config = experts.Config(
        rounds=2, updates=10, every=1, rates=(3e-3,), seeds=2, search=1
    )
    curves = experts.main(config)
    assert set(curves) == set(experts.METHODS)
    plain, fresh, _, *_ = (curve[..., 2] for curve in curves.values())
    # Until the first perturbation both have the same weights.
    np.testing.assert_allclose(plain[:, 0], fresh[:, 0])
    assert (
        "| experts, toward good weights (MENTOR) | 0.003 |" in capsys.readouterr().out
    )


def test_robust_pendulum(capsys):
    import robust_pendulum

    config = robust_pendulum.Config(
        updates=2, episodes=8, length=20, caps=(0.5,), seeds=2, search=1
    )
    rows = robust_pendulum.main(config)
    for row in rows.values():
        free, worst, fallen = row.T
        assert (free <= 1.01 * worst).all()
        assert (fallen <= 1).all()
    linear, game = rows[0.5, "linear"], rows[0.5, "linear game, bound searched"]
    assert game[0, 1] <= linear[0, 1]
    assert "| 0.5 | game |" in capsys.readouterr().out


def test_a_probe(capsys):
    import echo

    tiny = {"patients": 8, "labelled": 8, "held_out": 8, "width": 16, "depth": 1}
    config = echo.Config(seeds=2, rates=(3e-3,), pretrain=20, updates=80, **tiny)
    found = echo.main(config)
    mean = found["mean motion"]
    assert mean.min() > 30
    rows = [found[row] for row in echo.ROWS]
    for rate, errors, moves in rows:
        assert rate == 3e-3
        # So few steps are worth some millimetres, with each seed.
        assert (errors[:, 0, 0] < mean[0]).all()
        # All are driven from the same poses.
        np.testing.assert_allclose(moves[:, 0], np.tile(rows[0][2][0, 0], (2, 1)))
    assert "| 8 frames and motions, from scratch | 0.003 |" in capsys.readouterr().out


def test_a_scan_goes_by_all_planes():
    import echo

    from jaxlib_guidance.worlds import rigid

    patient = jax.jit(echo.echo.draw)(echo.echo.build(), jax.random.key(0))
    poses = jax.jit(echo.tour)(patient, jax.random.key(1))
    assert poses.shape == (48, 4, 4)
    far, angle = rigid.apart(poses[:, None], patient.planes)
    assert far.min(0).max() < 30
    assert angle.min(0).max() < 0.7
    step, turn = rigid.apart(poses, np.roll(poses, -1, 0))
    assert step.max() < 80
    assert step.mean() > 5
    assert turn.mean() < 0.8
