"""Environments with a known truth, each a namespace of pure functions."""

from functools import partial
from types import ModuleType

from jaxlib_guidance.worlds import _carry as carry
from jaxlib_guidance.worlds import _chains as chains
from jaxlib_guidance.worlds import _craft as craft
from jaxlib_guidance.worlds import _crowd as crowd
from jaxlib_guidance.worlds import _door as door
from jaxlib_guidance.worlds import _doorway as doorway
from jaxlib_guidance.worlds import _dynamical_bandit as dynamical_bandit
from jaxlib_guidance.worlds import _echo as echo
from jaxlib_guidance.worlds import _errand as errand
from jaxlib_guidance.worlds import _gaussian_bandit as gaussian_bandit
from jaxlib_guidance.worlds import _grids as grids
from jaxlib_guidance.worlds import _hidden_role as hidden_role
from jaxlib_guidance.worlds import _hidden_role_beliefs as hidden_role_beliefs
from jaxlib_guidance.worlds import _hosts as hosts
from jaxlib_guidance.worlds import _key_door as key_door
from jaxlib_guidance.worlds import _kuhn as kuhn
from jaxlib_guidance.worlds import _linear_game as linear_game
from jaxlib_guidance.worlds import _maze as maze
from jaxlib_guidance.worlds import _negotiation as negotiation
from jaxlib_guidance.worlds import _negotiation_replays as negotiation_replays
from jaxlib_guidance.worlds import _pendulum as pendulum
from jaxlib_guidance.worlds import _programs as programs
from jaxlib_guidance.worlds import _pusher as pusher
from jaxlib_guidance.worlds import _raters as raters
from jaxlib_guidance.worlds import _rigid as rigid
from jaxlib_guidance.worlds import _room as room
from jaxlib_guidance.worlds import _shop as shop
from jaxlib_guidance.worlds import _site_graph as site_graph
from jaxlib_guidance.worlds import _slalom as slalom
from jaxlib_guidance.worlds import _social_dilemma as social_dilemma
from jaxlib_guidance.worlds import _street as street
from jaxlib_guidance.worlds import _sums as sums
from jaxlib_guidance.worlds import _tables as tables
from jaxlib_guidance.worlds import _users as users

__all__ = [
    "carry",
    "chains",
    "craft",
    "crowd",
    "door",
    "doorway",
    "dynamical_bandit",
    "echo",
    "errand",
    "gaussian_bandit",
    "grids",
    "hidden_role",
    "hidden_role_beliefs",
    "hosts",
    "key_door",
    "kuhn",
    "linear_game",
    "maze",
    "negotiation",
    "negotiation_replays",
    "pendulum",
    "programs",
    "pusher",
    "raters",
    "rigid",
    "room",
    "shop",
    "site_graph",
    "slalom",
    "social_dilemma",
    "street",
    "sums",
    "tables",
    "users",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def _public(world: ModuleType) -> list[str]:
    """What `dir` shows of a world: what its file defines and its constants."""
    return sorted(
        name
        for name, thing in vars(world).items()
        if not name.startswith("_")
        and (name.isupper() or getattr(thing, "__module__", None) == world.__name__)
    )


for _name in __all__:
    # A world is a file, and a file's own `__dir__` would stand in each of them.
    vars(globals()[_name])["__dir__"] = partial(_public, globals()[_name])
