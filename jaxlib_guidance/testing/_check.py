"""The laws of terms, solvers and losses, for one's own as for the library's."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxlib_guidance.guidance import METHODS, Method
from jaxlib_guidance.reduce import LossOut
from jaxlib_guidance.sampling import Sampler
from jaxlib_guidance.testing._law_networks import CLASSES
from jaxlib_guidance.testing._laws import (
    run_laws,
)
from jaxlib_guidance.testing._loss_laws import LossLaws
from jaxlib_guidance.testing._method_case import method_term
from jaxlib_guidance.testing._sampler_laws import SamplerLaws
from jaxlib_guidance.testing._term_case import default_state
from jaxlib_guidance.testing._term_laws import TermLaws
from jaxlib_guidance.types import Array, Denoiser, Process, PyTree


def check_term(
    term: Any,
    *,
    denoiser: Denoiser | Sequence[Denoiser] | None = None,
    process: Process | None = None,
    x: Array | None = None,
    cond: PyTree = None,
    ref: PyTree = None,
    t: float = 0.5,
    step: int = 1,
    steps: int = 2,
    evaluations: int | None = None,
    only: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
) -> None:
    """Checks that a guidance term obeys the laws that all terms of this library obey.

    One step of guidance is evaluated with all weights of the term multiplied by a
    number: 1 is the term itself and 0 must be off. The laws, by name:

    - ``pytree``: weights are leaves, and what is unflattened acts the same;
    - ``acts``: the term changes the estimate (or the other laws would say nothing);
    - ``state``: it leads with the batch and keeps its structure, shapes and types;
    - ``half``: the estimate stays float32 with a network or weights in half precision;
    - ``weight_zero``: off bit for bit, in the samples whose weight it is;
    - ``weight_zero_static``: a weight known to be 0 leaves nothing in the program;
    - ``weight_sweep``: `jax.vmap` over weights gives what each gives alone;
    - ``gradient``: to the weight and through the network, against finite differences;
    - ``batch``: a sample is the same whatever else is in the batch, and wherever it is;
    - ``nan``: NaN in one sample stays in that sample;
    - ``jit``: compiled and not, the estimate is the same;
    - ``one_compilation``: one compilation serves two weights;
    - ``devices``: split among devices (with `jax.jit` and `jax.shard_map`) the estimate
      is the same and nothing is communicated;
    - ``evaluations``: where ``evaluations`` is given, a step evaluates the networks as
      often as that says;
    - ``lowers``: for CUDA devices and TPUs.

    Args:
      term: A guidance term or chain; or, where the weight is no field named ``weight``,
        a function from the weight (a scalar or ``[B]``) to the term.
      denoiser: The network, or a tuple of networks for terms that contrast them; None
        takes the exact denoiser of three Gaussian classes (and a wider, weaker one for
        terms that ask for a second network), or a tiny transformer with the sites
        "block0/attn", "block1/attn" and "block1/cross" for terms that edit attention.
      process: The noise process; None takes the denoiser's, or `VPCosine`.
      x: The state ``[B, *S]`` to evaluate at, B from 4; None takes eight random vectors
        of six numbers, or images (8, 8, 1) for terms that edit attention. Leaves of the
        term whose first axis is B are taken to hold one value for each sample.
      cond: Condition, every leaf ``[B, ...]``; None takes labels 0, 1, 2 in turn, or no
        condition with a denoiser of your own.
      ref: What the term sees as ``ctx.ref``, every leaf ``[B, ...]``.
      t: Time of the evaluation.
      step: Index of the sampler's step, which must lie inside the term's window.
      steps: Number of the sampler's steps.
      evaluations: Network evaluations of a sample in a step, the base included; None
        is not counted.
      only: Names of the laws to check; None checks all.
      skip: Reasons by the name of a law that is not meant to hold. A law that is
        skipped and holds raises, so that no skip outlives its reason.

    Raises:
      AssertionError: A law is broken, or one that is skipped is not; the message names
        the law and the numbers.
      ValueError: ``only`` or ``skip`` names no law; ``x`` has fewer than 4 samples.

    Example:
      >>> import jaxlib_guidance as jg
      >>> jg.testing.check_term(jg.cfg(2.0, null=10))
    """
    case = TermLaws(term, denoiser, process, x, cond, ref, t, step, steps)
    checked = [
        case.pytree,
        case.acts,
        case.state,
        case.half,
        case.weight_zero,
        case.weight_zero_static,
        case.weight_sweep,
        case.gradient,
        case.batch,
        case.nan,
        case.jit,
        case.one_compilation,
        case.devices,
        case.lowers,
    ]
    if evaluations is not None:
        case.expected = evaluations
        checked.append(case.evaluations)
    run_laws(f"the term {_name(term)}", checked, only, skip)


def _name(term):
    return getattr(term, "__name__", type(term).__name__)


def check_method(method: str | Method, **options: Any) -> None:
    """Checks a row of the catalogue of guidance methods by `check_term`.

    Its term is `method_term`'s; the row says how many evaluations a step has, and which
    laws it is not meant to obey.

    Args:
      method: Row, or the name of one of `guidance.METHODS`.
      **options: Other arguments of `check_term`.

    Raises:
      AssertionError: A law is broken, or one that is skipped is not.
      KeyError: No method of that name.

    Example:
      >>> import jaxlib_guidance as jg
      >>> jg.testing.check_method("cfg", only=["evaluations"])
    """
    row = METHODS[method] if isinstance(method, str) else method

    def term(weight):
        return method_term(row, weight)

    term.__name__ = row.name
    count = row.evaluations
    if row.after and count is not None:
        count += 1  # What comes before it.
    settings: dict[str, Any] = {"evaluations": count, "skip": row.skip}
    if row.vector:
        settings["cond"] = default_state((CLASSES,))
    if row.shape:
        settings["x"] = default_state(row.shape)
    check_term(term, **settings | options)


def check_sampler(
    sampler: Sampler | Callable[[Array], Sampler],
    *,
    denoiser: Denoiser | Sequence[Denoiser] | None = None,
    process: Process | None = None,
    grid: Array | None = None,
    shape: tuple[int, ...] = (2,),
    cond: PyTree = None,
    guidance: Any = None,
    order: float | None = None,
    only: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
) -> None:
    """Checks that a solver obeys the laws that all solvers of this library obey.

    Eight samples are drawn by `sampling.sample` over a short grid. The laws, by name:

    - ``transition``: of the right shapes, and the next state is a draw of it;
    - ``evaluations``: no step evaluates the network more often than stated, and one
      does as often;
    - ``stochastic``: some step has a standard deviation above 0 if and only if stated;
    - ``half``: states stay float32 with a network in half precision;
    - ``batch``: a sample is the same whatever else is in the batch, and wherever it is;
    - ``nan``: NaN in one sample stays in that sample;
    - ``jit``: compiled and not, the samples are the same;
    - ``vmap``: over grids gives what each grid gives alone;
    - ``pieces``: cut in the middle and taken up again, the samples are the same;
    - ``gradient``: to the start of the trajectory, finite and in agreement with finite
      differences;
    - ``one_compilation``: one compilation serves two grids of one length;
    - ``devices``: split among devices (with `jax.jit` and `jax.shard_map`) the samples
      are the same and nothing is communicated;
    - ``reversible``: with growing noise and back leads to the start, or is refused;
    - ``order``: where ``order`` is given, the error against the exact probability flow
      of a Gaussian mixture falls from 32 to 64 steps as that order says;
    - ``lowers``: for CUDA devices and TPUs.

    Args:
      sampler: A solver; or, where it holds something for each sample, a function from
        the indices ``[b]`` of samples, out of 0, ..., 7, to the solver for them.
      denoiser: The network, or a tuple of networks; None takes the exact denoiser of
        three Gaussian classes.
      process: The noise process; None takes the denoiser's, or `VPCosine`.
      grid: Times ``[N + 1]``; None takes `logsnr_grid` of four steps, the last to 0.
      shape: One sample ``*S``.
      cond: Condition, every leaf ``[8, ...]``; None takes labels 0, 1, 2 in turn, or no
        condition with a denoiser of your own.
      guidance: A guidance term or chain under which to sample. Leaves whose first axis
        is 8 are taken to hold one value for each sample.
      order: Order of convergence of a deterministic solver; None is not measured.
      only: Names of the laws to check; None checks all.
      skip: Reasons by the name of a law that is not meant to hold. A law that is
        skipped and holds raises, so that no skip outlives its reason.

    Raises:
      AssertionError: A law is broken, or one that is skipped is not; the message names
        the law and the numbers.
      ValueError: ``only`` or ``skip`` names no law.

    Example:
      >>> import jaxlib_guidance as jg
      >>> jg.testing.check_sampler(jg.heun(), order=2)
    """
    case = SamplerLaws(sampler, denoiser, process, grid, shape, cond, guidance, order)
    checked = [
        case.transition,
        case.evaluations,
        case.stochastic,
        case.half,
        case.batch,
        case.nan,
        case.jit,
        case.vmap,
        case.pieces,
        case.gradient,
        case.one_compilation,
        case.devices,
        case.reversible,
        case.lowers,
    ]
    if order is not None:
        checked.append(case.order)
    name = getattr(case.sampler.step, "__qualname__", "").split(".")[0]
    run_laws(f"the sampler {name}", checked, only, skip)


def check_loss(
    loss: Callable[..., Array | LossOut],
    *,
    inputs: Mapping[str, Any] | None = None,
    learned: Sequence[str] | None = None,
    constants: Sequence[str] = (),
    only: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
) -> None:
    """Checks that a loss obeys the laws that all losses of this library obey.

    Both contracts are known: one number for each element or row, and a
    `reduce.LossOut` that is divided once. The loss is called by the names of its
    arguments. The laws, by name:

    - ``contract``: float32, of the shape of the mask or of its rows, or a `LossOut` of
      float32 scalars; and not the same for all inputs;
    - ``masked``: what is masked may be NaN or infinite: it has loss 0 and gradient
      exactly 0, and moves nothing else (for a loss with an argument ``mask``);
    - ``nothing``: where everything is masked, loss and gradient are exactly 0;
    - ``split``: halves of the batch give the whole: their rows, or by `reduce.merge`;
    - ``permutation``: another order of the rows gives the rows in that order, or the
      same `LossOut`;
    - ``half``: inputs in bfloat16 and float16 are computed with in float32;
    - ``jit``: compiled and not, the loss is the same;
    - ``vmap``: over several inputs gives what each gives alone;
    - ``gradient``: agrees with finite differences;
    - ``constants``: the gradient with respect to what ``constants`` names is exactly 0;
    - ``shapes``: an argument of another shape raises while tracing, and the error has
      its shape or the name of an argument;
    - ``one_compilation``: one compilation serves two inputs.

    Args:
      loss: Function of arrays. What else it takes, bind with `functools.partial`.
      inputs: Arrays by the name of the argument; they replace or complete those that
        are known: ``logp``, ``logp_old``, ``logp_ref``, ``advantage``, ``values``,
        ``values_old``, ``targets`` and ``mask`` ``[8, 5]``, ``logits`` and
        ``logits_ref`` ``[8, 5, 6]``, ``rewards`` ``[4, 2]``, and the rows ``[8]`` of
        preferences, such as ``u_w`` and ``u_l``. First axes have an even length: the
        law ``split`` cuts them in half.
      learned: Arguments with respect to which the loss is differentiated; None takes
        the first and its partner in a pair.
      constants: Arguments to which no gradient may flow, such as ``("logp_old",)``.
      only: Names of the laws to check; None checks all.
      skip: Reasons by the name of a law that is not meant to hold. A law that is
        skipped and holds raises, so that no skip outlives its reason.

    Raises:
      AssertionError: A law is broken, or one that is skipped is not; the message names
        the law and the numbers.
      ValueError: ``only`` or ``skip`` names no law; an argument without a default is
        neither known nor in ``inputs``.

    Example:
      >>> import jaxlib_guidance as jg
      >>> constants = ("advantage", "logp_old")
      >>> jg.testing.check_loss(jg.policy.ppo_clip, constants=constants)
    """
    case = LossLaws(loss, inputs or {}, learned, constants)
    checked = [case.contract]
    if case.mask is not None:
        checked += [case.masked, case.nothing]
    checked += [
        case.split,
        case.permutation,
        case.half,
        case.jit,
        case.vmap,
        case.gradient,
        case.shapes,
        case.one_compilation,
    ]
    if constants:
        checked.append(case.constants)
    inner = loss.func if isinstance(loss, functools.partial) else loss
    run_laws(f"the loss {getattr(inner, '__name__', inner)}", checked, only, skip)
