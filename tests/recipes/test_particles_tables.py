"""benchmarks/particles.py: its tables say what the methods promise."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def particles(benchmarks):
    import particles

    return particles


def rows(table):
    """First cells and the others, in order."""
    print(table)
    lines = (line.strip("|").split("|") for line in table.splitlines()[2:])
    return [[cell.strip() for cell in line] for line in lines]


def test_weights_lead_to_the_product(particles):
    found = rows(particles.product(particles.Config(groups=16)))
    alone = [row for row in found if row[0].startswith("CFG")][-1]
    assert float(alone[2]) > 1.23
    _, _, mean, error, variance, wide, _ = found[-1]
    assert abs(float(mean) - 8 / 7) < 4 * float(error)
    assert abs(float(variance) - 1 / 7) < 4 * float(wide)


def test_steering_has_the_evidence(particles):
    found = rows(particles.posterior(particles.Config()))
    exact = [row for row in found if "exact" in row[0]]
    steered = [row for row in found if row[0] == "steering, diff"]
    for truth, row in zip(exact, steered, strict=True):
        assert abs(float(row[1]) - float(truth[1])) < 0.03
        assert abs(float(row[3]) / float(truth[3]) - 1) < 0.04


def test_rewards_are_earned(particles):
    small = particles.Config(count=60, tuning=20, steps=8, particles=4, seeds=2)
    found = rows(particles.digits(small))
    accuracy = {row[0]: float(row[3].split()[0]) for row in found}
    assert set(accuracy) == set(particles.SETTINGS)
    for name in ("gradient", "steering diff", "SVDD", "gradient + add"):
        assert accuracy[name] > accuracy["none"] + 0.2
