"""One optimiser step, the same on one device and on many."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxlib_guidance import rng
from jaxlib_guidance.reduce import LossOut, Mean, Peak, divide, finalize, merge
from jaxlib_guidance.training._parallel import AXIS, batch_sharding, replicated
from jaxlib_guidance.training._state import (
    TrainState,
    _float32_or_wider,
    ema_decay_at,
    ema_update,
)
from jaxlib_guidance.types import Array, PyTree

Loss = Callable[..., tuple[Array, dict[str, Array]] | LossOut]
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
    """Builds ``step(state, batch, weights=None, frozen=None) -> (state, metrics)``.

    It is compiled. The objective is ``sum_i w_i loss_i / sum_i w_i`` over the *global*
    batch for a loss of rows, and ``sum / weight`` of the merged parts for a loss that
    returns a `LossOut`; where the divisor is 0, the gradient and the metrics are 0. It
    is written once in the global view, so a mesh, micro-batches and padding rows change
    where it is computed and not what: row ``i`` has the key
    ``fold_in(fold_in(root, i), step)`` wherever it lands, and no gradient is averaged
    by hand.

    Args:
      loss: Function ``(params, batch, keys [B])`` that returns one loss a row and
        metrics by name, ``(loss [B], {name: [B]})``, or a `LossOut` such as
        `policy.grpo` and `reduce.aggregate` give. With micro-batches and on a mesh it
        sees some of the rows at a time and must treat each row alone; a row may be a
        whole group of samples, ``[G, ...]``. Where the step is given ``frozen``, it is
        called with that as its fourth argument.
      tx: Optax transformation, without clipping if ``clip`` is given.
      ema_decay: Decay of the exponential moving average of the parameters.
      ema_warmup: Whether the decay ramps up, see `ema_decay_at`.
      accumulate: Number of micro-batches in which the batch is processed, to save
        memory.
      clip: Largest global norm of the gradient; None does not clip.
      mesh: Data mesh; the batch must be `shard_batch`-ed and the state placed. None is
        a single device.
      sharding: Sharding of the state, from `state_sharding`; None is a whole copy on
        each device of the mesh.
      donate: Whether the old state's memory is reused (it is then gone).

    Returns:
      The step. Its ``weights [B]`` are one number a row, 0 for padding; rows of weight
      0 are replaced by a row that counts before the loss sees them, so that whatever
      they hold changes nothing. Its metrics are float32 scalars: "loss", those of
      ``loss`` as weighted means (or as `reduce.finalize` reports them), and "grad_norm"
      before clipping. Its ``frozen`` is a pytree that the loss needs and that is not
      trained, such as the weights beside which `models.init_lora` stands: an argument
      of the compiled program and no constant in it, neither donated nor averaged.

    Raises:
      ValueError: At the call, a batch that micro-batches or devices cannot share, a
        loss that is neither one number for each row nor a `LossOut`, weights of another
        shape, or weights beside a `LossOut`, whose mask they belong to.

    Example:
      A whole policy-gradient step, where a row of the batch is a group of samples::

        def loss(params, batch, keys):
            logp = log_prob(params, batch["tokens"])  # [P, G, T]
            return policy.grpo(logp, batch["logp"], batch["reward"], batch["mask"])

        step = make_train_step(loss, optax.adamw(1e-5), accumulate=4)
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
    differentiate = _differentiated(loss)

    def gradient(params, rows, frozen):
        if sharding is not None:
            # Split parameters are gathered whole and the rows stay where they are: left
            # to itself XLA moves activations where it reckons that to be cheaper.
            params = jax.lax.with_sharding_constraint(params, whole)
        if accumulate == 1:
            return differentiate(params, *rows, frozen)
        if mesh is None:
            return _accumulated(differentiate, accumulate, params, rows, frozen)

        def on_device(params, rows, frozen):
            parts = _accumulated(differentiate, accumulate, params, rows, frozen)
            return jax.tree.map(lambda leaf: leaf[None], parts)

        # Each device adds up its own micro-batches and the sum of them travels; in the
        # global view every micro-batch's would.
        on_devices: Any = jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
        grads, out = on_devices(params, rows, frozen)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, 0), grads), _merged(out)

    def step(
        state: TrainState,
        batch: PyTree,
        weights: Array | None = None,
        frozen: PyTree = None,
    ) -> Any:
        n = _rows(batch)
        if n % (devices * accumulate):
            raise ValueError(
                f"batch has {n} rows; expected a multiple of {devices} devices times "
                f"{accumulate} micro-batches"
            )
        if weights is not None:
            weights = jnp.asarray(weights, jnp.float32)
            if weights.shape != (n,):
                raise ValueError(f"weights has shape {weights.shape}; expected ({n},)")
            batch = _without_padding(batch, weights != 0)
            # Before the sum, which of many rows would overflow in float16.
            weights = divide(weights, jnp.sum(weights))
        keys = rng.fold(rng.sample_keys(state.key, n), state.step)
        rows = (batch, keys, weights)
        if mesh is not None:
            rows = jax.lax.with_sharding_constraint(rows, batch_sharding(mesh))
        grads, out = gradient(state.params, rows, frozen)
        value, metrics = finalize(out)
        taken = {"loss", "grad_norm"} & metrics.keys()
        if taken:
            raise ValueError(
                f"the loss reports {sorted(taken)}, which the step reports itself; "
                "expected other names"
            )
        metrics = {"loss": value, **metrics}
        # A batch of padding alone teaches nothing, instead of NaN. The optimiser's
        # state has the parameters' types, and would not with others.
        grads = jax.tree.map(
            lambda g, p: divide(g, out.weight.astype(g.dtype)).astype(p.dtype),
            grads,
            state.params,
        )
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


def _differentiated(loss: Loss) -> Callable[..., tuple[PyTree, LossOut]]:
    """``(params, batch, keys, weights, frozen) -> (gradient of the sum, LossOut)``."""

    def objective(params, batch, keys, weights, frozen):
        more = () if frozen is None else (frozen,)
        out = loss(params, batch, keys, *more)
        if isinstance(out, LossOut):
            if weights is not None:
                raise ValueError(
                    "weights have no effect on a loss that returns a LossOut; expected "
                    "None, and padding rows hidden by the loss's own mask"
                )
        else:
            out = _of_rows(out, keys.shape[0], weights)
        # The mean and not the sum is differentiated: the gradient of a sum over many
        # tokens would overflow in float16.
        scale = jax.lax.stop_gradient(out.weight)
        return divide(out.sum, scale), (out, scale)

    def differentiate(params, batch, keys, weights, frozen):
        grads, (out, scale) = jax.grad(objective, has_aux=True)(
            params, batch, keys, weights, frozen
        )
        wide = jax.tree.map(lambda g: g.astype(_float32_or_wider(g.dtype)), grads)
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), wide), out

    return differentiate


def _of_rows(out: Any, n: int, weights: Array | None) -> LossOut:
    """A loss of rows with its metrics as sums that are not yet divided."""
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], dict)):
        shape = f" of shape {jnp.shape(out)}" if hasattr(out, "shape") else ""
        got = f"an array{shape}" if shape else type(out).__name__
        raise ValueError(
            f"loss returned {got}; expected (loss [B], metrics), with {{}} for no "
            "metrics, or a reduce.LossOut"
        )
    each, metrics = out
    for name, value in {"loss": each, **metrics}.items():
        if jnp.shape(value) != (n,):
            raise ValueError(
                f"{name} has shape {jnp.shape(value)}; expected ({n},), one number for "
                "each row"
            )
    weights = jnp.full(n, 1.0, jnp.float32) if weights is None else weights
    weight = jnp.sum(weights)

    def total(x):
        return jnp.sum(weights * x.astype(jnp.float32))

    report = {name: Mean(total(value), weight) for name, value in metrics.items()}
    return LossOut(total(each), weight, report)


def _accumulated(differentiate, accumulate, params, rows, frozen):
    """Gradient and loss of the micro-batches together."""
    # Micro-batch j takes rows j, j + A, ...: each device keeps its own rows, where
    # consecutive blocks would send them across the mesh.
    parts = jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf.reshape(-1, accumulate, *leaf.shape[1:]), 0, 1),
        rows,
    )

    def add(total, part):
        grads, out = differentiate(params, *part, frozen)
        return (jax.tree.map(jnp.add, total[0], grads), merge(total[1], out)), None

    shapes = jax.eval_shape(
        differentiate, params, *jax.tree.map(lambda leaf: leaf[0], parts), frozen
    )
    grads, out = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    aux = {
        name: Peak(jnp.full_like(x.value, -jnp.inf)) if isinstance(x, Peak) else x
        for name, x in out.aux.items()
    }
    return jax.lax.scan(add, (grads, out._replace(aux=aux)), parts)[0]


def _merged(parts: LossOut) -> LossOut:
    """One loss from those of the devices, which lead."""

    def report(x):
        if isinstance(x, Peak):
            return Peak(jnp.max(x.value, 0))
        return Mean(jnp.sum(x.sum, 0), jnp.sum(x.weight, 0))

    aux = {name: report(x) for name, x in parts.aux.items()}
    return LossOut(jnp.sum(parts.sum, 0), jnp.sum(parts.weight, 0), aux)


def _without_padding(batch: PyTree, counts: Array) -> PyTree:
    """The batch with a row that counts in place of each that does not.

    A weight of 0 hides a row's loss but not its gradient: the derivative of a square
    root, a logarithm or a quotient at what padding happens to hold is infinite, and
    times 0 is NaN.
    """
    first = (jnp.arange(len(counts)) == jnp.argmax(counts)) & counts

    def replace(leaf):
        def over(mask):
            return mask.reshape(-1, *(1,) * (leaf.ndim - 1))

        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        # A sum over one row, which a sharded batch sends as one row.
        row = jnp.sum(jnp.where(over(first), leaf, jnp.zeros_like(leaf)), 0)
        return jnp.where(over(counts), leaf, row.astype(leaf.dtype))

    return jax.tree.map(replace, batch)


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
