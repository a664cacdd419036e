"""Plans by guided diffusion of states and actions, and worlds to carry them out in."""

from jaxlib_guidance.planning._advantages import (
    apply_critic,
    chunk_returns,
    chunk_value,
    init_critic,
    tell_advantage,
    with_advantage,
)
from jaxlib_guidance.planning._chunks import ChunkedEpisode, carry_out_chunks
from jaxlib_guidance.planning._dynamics import (
    apply_dynamics,
    apply_inverse,
    init_dynamics,
    init_inverse,
)
from jaxlib_guidance.planning._energies import (
    alignment_errors,
    dynamics_energy,
    goal_errors,
    phase_blend,
    phased,
    rate_energy,
)
from jaxlib_guidance.planning._flow_policy import (
    draw_chunk,
    flow_policy,
    init_flow_policy,
)
from jaxlib_guidance.planning._improve import Improvement, improve
from jaxlib_guidance.planning._plan import (
    Episode,
    carry_out,
    choose,
    first_state,
    plan,
    roll_out,
)
from jaxlib_guidance.planning._planner import (
    Planner,
    load_planner,
    planner_from_config,
)
from jaxlib_guidance.planning._social import (
    agent_importance,
    counterfactual_shift,
    descend,
    nearness_energy,
)
from jaxlib_guidance.planning._trajectories import (
    Layout,
    Trajectory,
    fit_layout,
    windows,
)

__all__ = [
    # Trajectories and their arrays
    "Layout",
    "Trajectory",
    "fit_layout",
    "windows",
    # Plans, and carrying them out
    "Episode",
    "carry_out",
    "choose",
    "first_state",
    "plan",
    "roll_out",
    # Chunks of actions by a flow, carried out late
    "ChunkedEpisode",
    "carry_out_chunks",
    "draw_chunk",
    "flow_policy",
    "init_flow_policy",
    # What chunks are worth, and telling a policy
    "apply_critic",
    "chunk_returns",
    "chunk_value",
    "init_critic",
    "tell_advantage",
    "with_advantage",
    # What a plan is asked for
    "alignment_errors",
    "dynamics_energy",
    "goal_errors",
    "phase_blend",
    "phased",
    "rate_energy",
    # Plans among people, and plans by descent
    "agent_importance",
    "counterfactual_shift",
    "descend",
    "nearness_energy",
    # Learned dynamics
    "apply_dynamics",
    "apply_inverse",
    "init_dynamics",
    "init_inverse",
    # A loop that learns from its own plans
    "Improvement",
    "improve",
    # All of it in a file
    "Planner",
    "load_planner",
    "planner_from_config",
]
