"""Networks of `echo.py`, and how they learn: before there are labels, and from them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlib_guidance.models import (
    Attention,
    MotionAttention,
    grid_positions,
    patchify,
)
from jaxlib_guidance.training import (
    contrastive_loss,
    ema_update,
    latent_loss,
    latent_targets,
)
from jaxlib_guidance.worlds import echo, rigid

LEG, FRAMES, PATCH, GRID = 8, 8, 8, 4
SCAN = LEG * len(echo.PLANES)
SCALE = jnp.array([50.0] * 3 + [1.0] * 3)
"""Motions are learned in units of 50 mm and 1 rad."""
# A hidden block of 2x3 or 3x2 patches, wherever it fits; the network sees the others.
BLOCKS = [
    [GRID * (i + a) + j + b for a in range(h) for b in range(w)]
    for h, w in ((2, 3), (3, 2))
    for i in range(GRID - h + 1)
    for j in range(GRID - w + 1)
]
HIDDEN = np.array(BLOCKS)
SHOWN = np.array([np.setdiff1d(np.arange(GRID**2), block) for block in BLOCKS])


class Block(nn.Module):
    """Attention and a layer of twice the width, each after a normalisation."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        x += Attention(2, name="attention")(nn.LayerNorm()(x))[0]
        y = nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(x)))
        return x + nn.Dense(width)(y)


class Encoder(nn.Module):
    """Latents ``[B, T, W]`` of the patches ``[B, T]`` of pictures ``[B, 32, 32]``."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, pictures, index=None):
        # Spread of about 1.
        tokens = patchify(7 * (pictures[..., None] - 0.45), PATCH)[0]
        x = nn.Dense(self.width)(tokens) + grid_positions((GRID, GRID), self.width)
        if index is not None:
            x = jnp.take_along_axis(x, index[..., None], 1)
        for _ in range(self.depth):
            x = Block()(x)
        return nn.LayerNorm()(x)


class Predictor(nn.Module):
    """Latents of hidden patches, or of all patches' mean after a motion."""

    width: int
    depth: int = 2

    def setup(self):
        self.inward, self.outward = nn.Dense(self.width), nn.Dense(self.width)
        self.moves = [nn.Dense(self.width), nn.Dense(self.width)]
        self.blocks = [Block() for _ in range(self.depth)]
        self.norm = nn.LayerNorm()
        shape = (2, self.width)
        self.empty = self.param("empty", nn.initializers.normal(0.02), shape)
        self.projected = [nn.Dense(2 * self.width), nn.Dense(self.width)]

    def run(self, latents, shown, asked):
        places = grid_positions((GRID, GRID), self.width)
        x = jnp.concatenate([self.inward(latents) + places[shown], asked], 1)
        for block in self.blocks:
            x = block(x)
        return self.outward(self.norm(x[:, latents.shape[1] :]))

    def patches(self, latents, shown, hidden):
        places = grid_positions((GRID, GRID), self.width)
        return self.run(latents, shown, self.empty[0] + places[hidden])

    def moved(self, latents, shown, motions):
        token = self.moves[1](nn.silu(self.moves[0](motions))) + self.empty[1]
        return self.run(latents, shown, token[:, None])[:, 0]

    def project(self, latents):
        return self.projected[1](nn.relu(self.projected[0](latents)))

    def everything(self, latents, shown, hidden, motions):
        made = self.patches(latents, shown, hidden)
        moved = self.moved(latents, shown, motions)
        return made, moved, self.project(moved)


class Guide(nn.Module):
    """Motions ``[B, N, planes, 6]`` to planes, of frames and the motions between.

    ``told`` is whether frames hear of each other, and whether of the motions, 0 or 1:
    numbers, so that all rows are one program.
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, pictures, motions, told, mask=None):
        batch, count = pictures.shape[:2]
        encoder = Encoder(self.width, self.depth, name="encoder")
        x = encoder(pictures.reshape(-1, *pictures.shape[2:])).mean(1)
        x = x.reshape(batch, count, -1)
        heard = MotionAttention(name="attention")(x, told[1] * motions, mask)
        x += told[0] * (heard - x)
        x = nn.gelu(nn.Dense(2 * self.width)(x))
        x = nn.Dense(6 * len(echo.PLANES))(x)
        return x.reshape(batch, count, len(echo.PLANES), 6)


def pretrain(
    config: Any,
    pictures: Any,
    poses: Any,
    weights: Any,
    key: Any,
    rate: Any,
    steps: Any,
) -> Any:
    """Parameters of an encoder, and the last step's three losses."""
    encoder = Encoder(config.width, config.depth)
    predictor = Predictor(config.width)
    pairs = config.batch * FRAMES // 2
    first, second, batches = jax.random.split(key, 3)
    some = jnp.zeros((1, *pictures.shape[2:]))
    params = encoder.init(first, some)
    shown, hidden = SHOWN[:1], HIDDEN[:1]
    begun = (
        jnp.zeros((1, SHOWN.shape[1], config.width)),
        shown,
        hidden,
        jnp.zeros((1, 6)),
    )
    student = params, predictor.init(second, *begun, method="everything")
    tx = optimiser(0.04)

    def loss(student, teacher, views, motions, block):
        shown, hidden = jnp.array(SHOWN)[block], jnp.array(HIDDEN)[block]
        seen = encoder.apply(student[0], views, shown)
        made, moved, ours = predictor.apply(
            student[1], seen, shown, hidden, motions, method="everything"
        )
        targets = latent_targets(encoder.apply(teacher[0], views))
        wanted = jnp.take_along_axis(targets, hidden[..., None], 1)
        # Pairs lie one half apart: what one shows is where the other's motion leads.
        other = jnp.roll(targets.mean(1), pairs, 0)
        theirs = predictor.apply(teacher[1], other, method="project")
        theirs = jax.lax.stop_gradient(theirs)
        masked = latent_loss(made, wanted).mean()
        smooth = latent_loss(moved, other).mean()
        apart = contrastive_loss(ours, theirs).mean()
        return masked + weights[0] * smooth + weights[1] * apart, (
            masked,
            smooth,
            apart,
        )

    def step(number, carry):
        student, teacher, state, _ = carry
        keys = jax.random.split(jax.random.fold_in(batches, number), 4)
        who = jax.random.randint(keys[0], (pairs,), 0, len(pictures))
        one = jax.random.randint(keys[1], (pairs,), 0, SCAN)
        by = jax.random.randint(keys[2], (pairs,), 1, LEG)
        who, when = jnp.tile(who, 2), jnp.concatenate([one, (one + by) % SCAN])
        at = poses[who, when]
        motions = rigid.motion(rigid.relative(at, jnp.roll(at, pairs, 0))) / SCALE
        block = jax.random.randint(keys[3], (2 * pairs,), 0, len(BLOCKS))
        change, told = jax.grad(loss, has_aux=True)(
            student, teacher, pictures[who, when], motions, block
        )
        change, state = tx.update(change, state, student)
        student = move(student, change, rate, number / steps)
        # From .98 to 1: .996, as in the paper, would hardly move in so few steps.
        teacher = ema_update(teacher, student, 1 - 0.02 * (1 - number / steps))
        return student, teacher, state, jnp.stack(told)

    carry = student, student, tx.init(student), jnp.zeros(3)
    student, _, _, told = jax.lax.fori_loop(0, steps, step, carry)
    return student[0], told


def optimiser(decay: float) -> Any:
    """AdamW at a rate of 1, which `move` scales."""
    clip = optax.clip_by_global_norm(1.0)
    return optax.chain(clip, optax.adamw(1.0, weight_decay=decay))


def move(params: Any, change: Any, rate: Any, share: Any) -> Any:
    """A step: the rate rises for a tenth of the steps, then falls by a cosine."""
    rate *= jnp.minimum(10 * share + 0.01, (1 + jnp.cos(jnp.pi * share)) / 2)
    return optax.apply_updates(params, jax.tree.map(lambda leaf: rate * leaf, change))


def windows(data: Any, who: Any, last: Any) -> Any:
    """The 8 frames up to ``last``, motions between them, and to the planes."""
    pictures, poses, patients = data
    when = (last[:, None] + jnp.arange(1 - FRAMES, 1)) % SCAN
    at = poses[who[:, None], when]
    between = rigid.motion(rigid.relative(at[:, :, None], at[:, None])) / SCALE
    planes = patients.planes[who][:, None]
    to = rigid.motion(rigid.relative(at[:, :, None], planes)) / SCALE
    return pictures[who[:, None], when], between, to


def fine_tune(
    config: Any, data: Any, told: Any, begun: Any, key: Any, rate: Any, steps: Any
) -> Any:
    """Parameters of a guide that begins with an encoder's, and whether it does."""
    guide = Guide(config.width, config.depth)
    first, batches = jax.random.split(key)
    shape = (1, FRAMES, *data[0].shape[2:])
    params = guide.init(
        first, jnp.zeros(shape), jnp.zeros((1, FRAMES, FRAMES, 6)), told
    )
    pretrained, is_pretrained = begun
    fresh = params["params"]["encoder"]
    encoder = jax.tree.map(
        lambda old, new: jnp.where(is_pretrained, old, new), pretrained["params"], fresh
    )
    params = {"params": {**params["params"], "encoder": encoder}}
    tx = optimiser(0.05)

    def loss(params, pictures, between, to):
        made = guide.apply(params, pictures, between, told)
        return optax.huber_loss(made, to).mean()

    def step(number, carry):
        params, state = carry
        key = jax.random.fold_in(batches, number)
        who, last = jax.random.randint(
            key, (2, config.batch), 0, SCAN * config.labelled
        )
        some, between, to = windows(data, who % config.labelled, last % SCAN)
        change = jax.grad(loss)(params, some, between, to)
        change, state = tx.update(change, state, params)
        return move(params, change, rate, number / steps), state

    return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))[0]
