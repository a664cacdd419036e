"""One optimiser step, the same on one device and on many."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.training._parallel import AXIS, batch_sharding, replicated
from jaxlib_guidance.training._state import (
    TrainState,
    at_least_float32,
    ema_decay_at,
    ema_update,
)
from jaxlib_guidance.types import Array, PyTree

Loss = Callable[[PyTree, PyTree, Array], tuple[Array, dict[str, Array]]]
Step = Callable[..., tuple[TrainState, dict[str, Array]]]


def make_train_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    ema_warmup: bool = True,
    accumulate: int = 1,
    clip: float | None = None,
    mesh: Mesh | None = None,
    sharding: PyTree | None = None,
    donate: bool = True,
) -> Step:
    """Builds ``step(state, batch, weights=None) -> (state, metrics)``, compiled.

    The objective is ``sum_i w_i loss_i / sum_i w_i`` over the *global* batch (and 0 if
    the weights are). It is
    written once in the global view, so a mesh, micro-batches and padding rows change
    where it is computed and not what: row ``i`` has the key ``fold_in(fold_in(root, i),
    step)`` wherever it lands, and no gradient is averaged by hand.

    Args:
      loss: ``(params, batch, keys [B]) -> (loss [B], metrics)``, metrics a dict of
        ``[B]``. Called with micro-batches when ``accumulate`` > 1, so it must treat
        rows alone.
      tx: An optax transformation, without clipping if ``clip`` is given.
      ema_decay: Decay of the average of the parameters.
      ema_warmup: Whether the decay ramps up, see `ema_decay_at`.
      accumulate: Micro-batches in which the batch is processed, to save memory.
      clip: Largest global norm of the gradient.
      mesh: Data mesh; the batch must be `shard_batch`-ed and the state placed.
      sharding: Of the state, from `state_sharding`; None is a whole copy on each device
        of the mesh.
      donate: Whether the old state's memory is reused (it is then gone).

    Returns:
      The step. Its metrics are weighted means over the batch, float32 scalars: "loss",
      those of ``loss``, and "grad_norm" before clipping.

    Raises:
      ValueError: At the call, a batch that micro-batches or devices cannot share, a
        loss that is not one number for each row, or weights of another shape.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}; expected at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}; expected a positive norm or None")

    if mesh is None and sharding is not None:
        raise ValueError("sharding needs a mesh; got None")

    devices = 1 if mesh is None else mesh.size
    whole = None if mesh is None else replicated(mesh)
    placed = whole if sharding is None else sharding

    def weighted_sum(params, batch, keys, weights):
        each, metrics = loss(params, batch, keys)
        metrics = {"loss": each, **metrics}
        for name, value in metrics.items():
            if value.shape != weights.shape:
                raise ValueError(
                    f"{name} has shape {value.shape}; expected {weights.shape}, one "
                    "number for each row"
                )
        sums = {k: jnp.sum(weights * v.astype(jnp.float32)) for k, v in metrics.items()}
        return sums["loss"], sums

    differentiate = jax.grad(weighted_sum, has_aux=True)

    def accumulated(params, rows):
        # Micro-batch j takes rows j, j + A, ...: each device keeps its own rows, where
        # consecutive blocks would send them across the mesh.
        parts = jax.tree.map(
            lambda leaf: jnp.swapaxes(
                leaf.reshape(-1, accumulate, *leaf.shape[1:]), 0, 1
            ),
            rows,
        )

        def add(total, part):
            found = differentiate(params, *part)
            return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, found), None

        first = jax.eval_shape(
            differentiate, params, *jax.tree.map(lambda leaf: leaf[0], parts)
        )
        # Sums of half-precision gradients would round at every addition.
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, at_least_float32(leaf.dtype)), first
        )
        return jax.lax.scan(add, zeros, parts)[0]

    def gradient(params, rows):
        if sharding is not None:
            # Split parameters are gathered whole and the rows stay where they are: left
            # to itself XLA moves activations where it reckons that to be cheaper.
            params = jax.lax.with_sharding_constraint(params, whole)
        if accumulate == 1:
            return differentiate(params, *rows)
        if mesh is None:
            return accumulated(params, rows)
        # Each device adds up its own micro-batches and the sum of them travels; in the
        # global view every micro-batch's would.
        on_devices: Any = jax.shard_map(
            lambda *local: jax.tree.map(lambda leaf: leaf[None], accumulated(*local)),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
        each = on_devices(params, rows)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), each)

    def step(state: TrainState, batch: PyTree, weights: Array | None = None) -> Any:
        n = _rows(batch)
        if n % (devices * accumulate):
            raise ValueError(
                f"batch has {n} rows; expected a multiple of {devices} devices times "
                f"{accumulate} micro-batches"
            )
        weights = jnp.ones(n) if weights is None else jnp.asarray(weights, jnp.float32)
        if weights.shape != (n,):
            raise ValueError(f"weights has shape {weights.shape}; expected ({n},)")
        # Before the sum, which of many rows would overflow in float16; and a batch of
        # padding alone teaches nothing, instead of NaN.
        total = jnp.sum(weights)
        weights = weights / jnp.where(total == 0, 1.0, total)
        keys = rng.fold(rng.sample_keys(state.key, n), state.step)
        rows = (batch, keys, weights)
        if mesh is not None:
            rows = jax.lax.with_sharding_constraint(rows, batch_sharding(mesh))
        grads, metrics = gradient(state.params, rows)
        # The optimiser's state has the parameters' types, and would not with others.
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)
        norm = metrics["grad_norm"] = _norm(grads)
        if clip is not None:
            scale = jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
            grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
        # Adam's bias correction raises a float to an integer, which strict promotion,
        # a caller's choice, forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(state.step, ema_decay, ema_warmup)
        ema = ema_update(state.ema, params, decay)
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return jax.jit(
        step,
        out_shardings=None if mesh is None else (placed, whole),
        donate_argnums=(0,) if donate else (),
    )


def _norm(tree: PyTree) -> Array:
    """Norm of all leaves together, summed in float32 whatever their types."""
    leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(map(jnp.vdot, leaves, leaves), jnp.float32(0)))


def _rows(batch: PyTree) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    rows = {shape[:1] for shape in shapes}
    if len(rows) != 1 or () in rows:
        raise ValueError(f"batch has leaves {shapes}; expected one leading batch")
    return shapes[0][0]
