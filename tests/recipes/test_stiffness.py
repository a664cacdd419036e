"""Benchmarks of stiffness: at small sizes the tables have all of their lines."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmarks")]


def cells(text, name):
    (line,) = (x for x in text.splitlines() if x.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_networks_learn_and_have_profiles(tmp_path):
    import stiffness

    config = stiffness.Config(
        seeds=2,
        references=2,
        search=1,
        rates=(3e-3,),
        deep=24,
        updates=60,
        rows=("plain", "step gate"),
        picture=tmp_path / "profiles.png",
    )
    text = stiffness.main(config)
    plain, step = cells(text, "plain"), cells(text, "step gate")
    assert (plain[1], step[1]) == ("55,520", "58,064")
    assert float(plain[3].split()[0]) > 60
    assert float(cells(text, "plain, 24 blocks")[7].split()[0]) > 0.9
    assert cells(text, "plain, not trained")[1] == "–"
    assert config.picture.stat().st_size > 5000
    with pytest.raises(ValueError, match="expected a multiple of blocks"):
        stiffness.main(stiffness.Config(deep=13))


def test_steps_err_as_their_stiffness_says():
    import flow_stiffness

    config = flow_stiffness.Config(starts=8, steps=20, bands=4, counts=(8,), fine=60)
    text = flow_stiffness.main(config)
    rows = [line.split("|") for line in text.splitlines()[2:6]]
    for row in rows[:2]:  # The others are longer than first order goes.
        error, expected = float(row[4]), float(row[5])
        assert 0.6 < error / expected < 1.3
    far = {
        name: float(cells(text, name)[1].split()[0])
        for name in ("`logsnr_grid`", "`stiffness_grid`")
    }
    assert far["`stiffness_grid`"] < 0.8 * far["`logsnr_grid`"]
