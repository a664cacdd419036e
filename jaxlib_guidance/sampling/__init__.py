"""Solvers, the sampling loop, inversion and recurrence."""

from jaxlib_guidance.sampling._adaptive import AdaptiveReport, sample_adaptive
from jaxlib_guidance.sampling._calibrate import CalibrationReport, calibrate
from jaxlib_guidance.sampling._calibrated import (
    Calibrated,
    load_calibrated,
    tabulate,
)
from jaxlib_guidance.sampling._consistency import consistency
from jaxlib_guidance.sampling._controlled import controlled_inversion
from jaxlib_guidance.sampling._corrector import CfgCorrector, cfg_corrector
from jaxlib_guidance.sampling._ddim import ddim, ddpm, posterior
from jaxlib_guidance.sampling._difference import difference, noised_states
from jaxlib_guidance.sampling._dpm import (
    dpm_2,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    dpmpp_sde,
)
from jaxlib_guidance.sampling._euler import edm, euler, euler_ancestral, heun
from jaxlib_guidance.sampling._flow_sde import flow_sde, flow_step
from jaxlib_guidance.sampling._guided_after import guided_after
from jaxlib_guidance.sampling._inversion import Inversion, ddim_inversion, invert
from jaxlib_guidance.sampling._langevin import annealed_langevin, with_corrector
from jaxlib_guidance.sampling._loop import initial_state, sample
from jaxlib_guidance.sampling._multistep import (
    adams,
    deis,
    lms,
    multistep,
    pndm,
    unipc,
)
from jaxlib_guidance.sampling._noise_maps import NoiseMaps, noise_maps, replay
from jaxlib_guidance.sampling._particles import (
    Particles,
    best_particle,
    draw_particle,
    lineage,
    particle_keys,
    per_particle,
    sample_particles,
)
from jaxlib_guidance.sampling._potentials import Potential, Proposal
from jaxlib_guidance.sampling._recommended import Recommended, recommended
from jaxlib_guidance.sampling._recurrence import inpaint, with_recurrence
from jaxlib_guidance.sampling._resample import (
    Resampling,
    effective_size,
    normalize_weights,
    resample,
)
from jaxlib_guidance.sampling._restore import daps, diffpir, dsg
from jaxlib_guidance.sampling._reward import best_of_n, svdd
from jaxlib_guidance.sampling._sa import sa_solver
from jaxlib_guidance.sampling._sampler import (
    Denoise,
    Interval,
    Level,
    Sampler,
    SampleState,
    StepInfo,
    Stepped,
    stateless,
)
from jaxlib_guidance.sampling._start_noise import d_flow
from jaxlib_guidance.sampling._steering import Steering, steering
from jaxlib_guidance.sampling._twisted import Twisted, twisted
from jaxlib_guidance.sampling._variational import pnp_flow, red_diff

__all__ = [
    # What a solver is
    "Interval",
    "Level",
    "Stepped",
    "Denoise",
    "Sampler",
    "StepInfo",
    "SampleState",
    "stateless",
    # The loop
    "initial_state",
    "sample",
    # What to take
    "Recommended",
    "recommended",
    # DDIM and DDPM
    "posterior",
    "ddim",
    "ddpm",
    # One step, first and second order
    "euler",
    "euler_ancestral",
    "heun",
    "edm",
    # DPM-Solver++
    "dpmpp_2m",
    "dpmpp_3m",
    "dpm_2",
    "dpmpp_2s",
    "dpmpp_sde",
    # Multistep
    "multistep",
    "adams",
    "lms",
    "deis",
    "pndm",
    "unipc",
    "sa_solver",
    # A solver that learns from the network
    "calibrate",
    "CalibrationReport",
    "Calibrated",
    "load_calibrated",
    "tabulate",
    # Consistency models
    "consistency",
    # Langevin
    "with_corrector",
    "annealed_langevin",
    # Recurrence and inpainting
    "with_recurrence",
    "inpaint",
    # Inversion
    "Inversion",
    "ddim_inversion",
    "invert",
    "controlled_inversion",
    # Edits beside the source's own states
    "noised_states",
    "difference",
    # DDPM's noise that gives the data itself
    "NoiseMaps",
    "noise_maps",
    "replay",
    # Steps of adaptive size
    "AdaptiveReport",
    "sample_adaptive",
    # A flow as a stochastic policy
    "flow_step",
    "flow_sde",
    # Guidance after a step
    "guided_after",
    # Particles
    "sample_particles",
    "Particles",
    "draw_particle",
    "best_particle",
    "lineage",
    "particle_keys",
    "per_particle",
    # Which particles go on
    "Resampling",
    "resample",
    "effective_size",
    "normalize_weights",
    # What weighs them
    "Potential",
    "Proposal",
    "CfgCorrector",
    "cfg_corrector",
    "Twisted",
    "twisted",
    "Steering",
    "steering",
    "svdd",
    "best_of_n",
    # Solvers that hold a measurement
    "diffpir",
    "daps",
    "dsg",
    "red_diff",
    "pnp_flow",
    "d_flow",
]
