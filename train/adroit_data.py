"""Makes episodes of Adroit's door from a public expert policy, for train/planner.py.

    pip install -e '.[adroit]'
    python train/adroit_data.py --policy door-v0.pickle          # a minute
    python train/planner.py --episodes runs/adroit_door.npz --directory runs/adroit

A dexterous hand of 28 joints turns a latch and opens a door to its stop at 90 degrees,
in MuJoCo on a CPU (`AdroitHandDoor-v1` of gymnasium-robotics). The expert is a file of
others: dapg/policies/door-v0.pickle of the repository aravindr93/hand_dapg on GitHub
(Apache-2.0), which belongs to arXiv 1709.10087. It is a pickle, read without importing
or running anything that it names. What it does is slowed, halted now and then, and gets
noise that lasts, in units of the exploration that it was trained with; for it flings
doors open, and from that alone nobody learns to stop one. Episodes that end with a door
that is not open are dropped. docs/planning.md has what a planner makes of them.
"""

import dataclasses
import hashlib
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

SHA256 = "288dd2131b905e40852d9eb032595bb9b3aa90b0502e9341e6b0e128b803478f"
# What the environment shows is 39 numbers. The last says whether the hinge is beyond
# 1, and is left out. It shows no velocity: those of hinge and latch are added, without
# which none could tell a door that stands from one that swings.
SHOWN, STATES, ACTIONS = 39, 40, 28
LATCH, HINGE = 27, 28
PALM, HANDLE, APART = slice(29, 32), slice(32, 35), slice(35, 38)
ARM, OPEN = 6, 1.35


@dataclasses.dataclass(frozen=True)
class Config:
    """Which episodes to make."""

    policy: Path
    """File of the expert, door-v0.pickle."""
    out: Path = Path("runs/adroit_door.npz")
    """File to write, actions [N, T, 28] and states [N, T, 40]."""
    count: int = 1500
    """Number of episodes."""
    length: int = 144
    """Steps of each, of 10 ms."""
    haste: float = 0.3
    """Part of the way from its aim to what the expert says that the hand goes in a
    step; 1 is the expert itself, which flings the door open."""
    halts: float = 0.03
    """Chance of a step to begin a halt, 5 to 25 steps in which the arm stays where it
    is, wherever the door stands."""
    noise: float = 0.5
    """Largest standard deviation of an episode's noise of actions; 1 is the exploration
    that the expert was trained with."""
    persistence: float = 0.95
    """Correlation of that noise from one step to the next."""
    seed: int = 0
    """Of the noise and of where the door stands."""


class Policy(NamedTuple):
    """A network of tanh layers from what is seen to an action.

    Attributes:
      layers: Of each, weights ``[out, in]`` and biases ``[out]``.
      shifts: What is taken from an observation, and added to an action.
      scales: What an observation is divided by, and an action is multiplied with.
      std: Standard deviation of exploration ``[A]``.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    shifts: tuple[np.ndarray, np.ndarray]
    scales: tuple[np.ndarray, np.ndarray]
    std: np.ndarray

    def act(self, seen: np.ndarray) -> np.ndarray:
        """The mean action ``[A]`` at an observation ``[O]``."""
        x = (seen - self.shifts[0]) / (self.scales[0] + 1e-8)
        for i, (weights, biases) in enumerate(self.layers):
            x = weights @ (np.tanh(x) if i else x) + biases
        return x * self.scales[1] + self.shifts[1]


class _Inert(dict):
    """Whatever a pickle names: nothing is imported, calls only keep their arguments."""

    args: tuple = ()
    state: Any = None

    def __init__(self, *args):
        super().__init__()
        self.args = args

    def __setstate__(self, state):
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module, name):
        return type(name, (_Inert,), {"__module__": module})


def _tensor(value: _Inert) -> np.ndarray:
    """Numbers of a tensor of PyTorch, whose file in the file ends with its storage."""
    if type(value).__name__ == "_rebuild_parameter":
        value = value.args[0]
    storage, offset, shape, strides = value.args[:4]
    (data,), count = storage.args, int(np.prod(shape))
    expected = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    size = int.from_bytes(data[-4 * count - 8 : -4 * count], "little")
    if offset or strides != expected or size != count:
        raise ValueError(f"a tensor has sizes {shape}, strides {strides}, {size} held")
    return np.frombuffer(data[-4 * count :], "<f4").reshape(shape).astype(float)


def _array(value: _Inert) -> np.ndarray:
    """Numbers of an array of numpy."""
    _, shape, kind, fortran, data = value.state
    if kind.args[0] != "f8" or fortran:
        raise ValueError(f"an array has type {kind.args[0]!r}; expected 'f8'")
    return np.frombuffer(data, "<f8").reshape(shape)


def read_policy(path: Path) -> Policy:
    """The expert of a file, which is one of mjrl's multilayer policies.

    Args:
      path: The file.

    Raises:
      FileNotFoundError: No such file.
      ValueError: Another kind of file, or a policy for another task.
    """
    data = path.read_bytes()
    try:
        with path.open("rb") as file:
            state = _Reader(file).load().state
        held = state["model"].state
        layers = []
        for each in held["_modules"]["fc_layers"].state["_modules"].values():
            found = each.state["_parameters"]
            layers.append((_tensor(found["weight"]), _tensor(found["bias"])))
        moved = {name: _array(x) for name, x in held["transformations"].items()}
        policy = Policy(
            layers,
            (moved["in_shift"], moved["out_shift"]),
            (moved["in_scale"], moved["out_scale"]),
            np.exp(_tensor(state["log_std"])),
        )
        shape = policy.act(np.zeros(SHOWN)).shape
    # Of a foreign file anything may be raised.
    except Exception as error:
        raise ValueError(
            f"{path} is no door policy of mjrl ({type(error).__name__}: "
            f"{error!s:.80}); expected dapg/policies/door-v0.pickle of "
            "github.com/aravindr93/hand_dapg"
        ) from None
    if shape != (ACTIONS,) or policy.std.shape != (ACTIONS,):
        raise ValueError(f"{path} has actions of shape {shape}; expected {ACTIONS}")
    if hashlib.sha256(data).hexdigest() != SHA256:
        print(
            f"{path} is another policy than that of docs/planning.md", file=sys.stderr
        )
    return policy


class Door:
    """The environment, of which only the simulation is used.

    Raises:
      ImportError: gymnasium-robotics is not installed.
    """

    def __init__(self, **options: Any):
        try:
            import gymnasium
            import gymnasium_robotics
        except ImportError as error:
            raise ImportError(f"{error}: pip install -e '.[adroit]'") from error
        gymnasium.register_envs(gymnasium_robotics)
        with warnings.catch_warnings():  # Of rewards, which nothing here looks at.
            warnings.simplefilter("ignore")
            made = gymnasium.make("AdroitHandDoor-v1", **options)
        self.env: Any = made.unwrapped

    def reset(self, seed: int, angle: float = 0.0, stop: float = 1.57) -> np.ndarray:
        """A door at another place for each seed.

        Args:
          seed: Of the place.
          angle: Where the hinge stands.
          stop: Angle that it can be opened to; 1.57 is the environment's own.

        Returns:
          The state ``[40]``.
        """
        joint = self.env.model.joint("door_hinge")
        joint.range = (0.0, stop)
        self.env.reset(seed=seed)
        state = self.env.get_env_state()
        state["qpos"][joint.qposadr] = angle
        self.env.set_env_state(state)
        return self.look()

    def look(self) -> np.ndarray:
        """The state ``[40]``."""
        return np.append(self.env._get_obs()[: SHOWN - 1], self.env.data.qvel[-2:])

    def hold(self) -> np.ndarray:
        """The action ``[28]`` that leaves joints where they are, but for contact."""
        env = self.env
        gain, bias = env.model.actuator_gainprm[:, 0], env.model.actuator_biasprm[:, 1]
        wanted = -bias / gain * env.data.qpos[:ACTIONS]
        return np.clip((wanted - env.act_mean) / env.act_rng, -1, 1)

    def step(self, action: np.ndarray) -> np.ndarray:
        """The state ``[40]`` after an action ``[28]`` between -1 and 1."""
        self.env.step(action)
        return self.look()


def episode(config: Config, policy: Policy, world: Door, rng: Any) -> Any:
    """One episode, actions ``[T, 28]`` and states ``[T, 40]``, and where it ends."""
    keep, fresh = config.persistence, (1 - config.persistence**2) ** 0.5
    seen, actions, states = world.reset(int(rng.integers(2**31))), [], []
    level, noise = rng.uniform(0, config.noise), rng.normal(size=ACTIONS)
    aim, halt = None, 0
    for _ in range(config.length):
        if halt:
            halt -= 1
        else:
            beyond = 1.0 if seen[HINGE] > 1 else -1.0
            said = np.clip(policy.act(np.append(seen[: SHOWN - 1], beyond)), -1, 1)
            aim = said if aim is None else aim + config.haste * (said - aim)
            if rng.uniform() < config.halts:
                halt, aim[:ARM] = int(rng.integers(5, 26)), world.hold()[:ARM]
        action = np.clip(aim + level * policy.std * noise, -1, 1)
        actions.append(action)
        states.append(seen)
        seen = world.step(action)
        noise = keep * noise + fresh * rng.normal(size=ACTIONS)
    return (actions, states), seen


def make(config: Config) -> dict[str, np.ndarray]:
    """Episodes that open the door.

    Raises:
      ValueError: Options out of their range, or an expert that opens hardly any door.
    """
    for name in ("count", "length"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")
    for name, most in (("persistence", 1), ("halts", 1), ("noise", np.inf)):
        if not 0 <= getattr(config, name) < most:
            value = getattr(config, name)
            raise ValueError(f"{name} is {value}; expected 0 to below {most}")
    if config.seed < 0:
        raise ValueError(f"seed is {config.seed}; expected at least 0")
    if config.out.suffix != ".npz":
        raise ValueError(f"out is {config.out}; expected a file that ends with .npz")
    if not 0 < config.haste <= 1:
        raise ValueError(f"haste is {config.haste}; expected above 0, at most 1")
    policy, world = read_policy(config.policy), Door()
    rng, kept, tried = np.random.default_rng(config.seed), [], 0
    while len(kept) < config.count:
        if tried >= 20 and len(kept) < tried / 10:
            raise ValueError(
                f"{len(kept)} of {tried} doors open; expected most: another policy, "
                "too few steps, or too much noise"
            )
        tried += 1
        made, seen = episode(config, policy, world, rng)
        if seen[HINGE] >= OPEN:
            kept.append(made)
    print(f"{config.count} of {tried} episodes open the door")
    parts: Any = zip(*kept, strict=True)
    names = ("actions", "states")
    return {name: np.array(x, "f4") for name, x in zip(names, parts, strict=True)}


def main(config: Config) -> None:
    """Makes the file; a mistake is told in one line."""
    try:
        made = make(config)
        config.out.parent.mkdir(parents=True, exist_ok=True)
        part = config.out.with_name(config.out.name + ".part")
        with part.open("wb") as file:
            np.savez(file, actions=made["actions"], states=made["states"])
        part.replace(config.out)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"train/adroit_data.py: {error}")
    print(f"{config.out}: {config.count} episodes of {config.length} steps")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
