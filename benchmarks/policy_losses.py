"""Policy losses under jit beside the same losses in eager PyTorch.

    python benchmarks/policy_losses.py                 # about a minute on two cores
    python benchmarks/policy_losses.py --tokens 4096   # longer answers

Ours against the formulas as TRL, verl and OpenRLHF write them, tensor by tensor, less
their reports and their guards against overflow. A row is a loss with its gradient with
respect to tokens' log-probabilities, or an advantage, and is first checked to be the
same in both. Both run in float32 on the processor. PyTorch is not compiled; it has one
thread or one a core, whichever is faster. Times are the least of calls in turns.
"""

import dataclasses
import functools
import os
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxlib_guidance import policy
from jaxlib_guidance.policy import (
    gae,
    group_normalize,
    informative,
    next_valid,
    sequence_logp,
)
from jaxlib_guidance.reduce import aggregate, finalize

LONGEST = 1024  # Dr.GRPO's constant.
DISCOUNT = {"gamma": 0.99, "lam": 0.95}
VALUES_ONLY = "group advantages", "GAE"


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, and how often and how many seconds each has its turn."""

    prompts: int = 32
    samples: int = 8
    tokens: int = 512
    turns: int = 20
    seconds: float = 0.03


class Batch(NamedTuple):
    """What losses read beside log-probabilities ``[B, T]``.

    The first half of the answers are the chosen ones of pairs, the second the rejected.
    """

    old: Any  # [B, T]
    ref: Any  # [B, T]
    mask: Any  # [B, T]
    advantage: Any  # [B]
    rewards: Any  # [P, G], 0 or 1; all equal in the first group.
    mismatched: Any  # [B], log-ratios of answers to other prompts, for KTO.
    values: Any  # [B, T]
    token_rewards: Any  # [B, T]


def make_batch(config: Config) -> tuple[np.ndarray, Batch]:
    """Log-probabilities and the rest, in float32."""
    generator = np.random.default_rng(0)
    rows = config.prompts * config.samples
    shape = rows, config.tokens
    logp = -generator.exponential(0.7, shape)
    # Most ratios are near 1, and some far outside every clip.
    old, ref = (logp + 0.05 * generator.standard_t(3, shape) for _ in range(2))
    # Answers end at different places and hold a tool's output, which nobody chose.
    length = generator.integers(config.tokens // 4, config.tokens + 1, (rows, 1))
    step = np.arange(config.tokens)
    mask = (step < length) & ~((step > length // 3) & (step < length // 2))
    rewards = generator.integers(0, 2, (config.prompts, config.samples))
    rewards[0] = 1
    advantage, mismatched = generator.normal([[0.0], [0.5]], size=(2, rows))
    values, token_rewards = generator.normal(size=(2, *shape))
    batch = old, ref, mask, advantage, rewards, mismatched, values, token_rewards
    return np.float32(logp), Batch(*map(np.float32, batch))


def mean(loss, mask, how="token_mean", constant=None):
    return finalize(aggregate(loss, mask, how, constant=constant))[0]


def by_token(loss, how="token_mean", **options):
    """Ours, from advantages."""

    def run(p, b):
        return mean(loss(p, b.old, b.advantage, b.mask, **options), b.mask, how)

    return run


def by_group(loss, *, penalty=False, **options):
    """Ours, from rewards; its reports are dropped."""

    def run(p, b):
        more = options | ({"logp_ref": b.ref} if penalty else {})
        return finalize(loss(p, b.old, b.rewards, b.mask, **more))[0]

    return run


def by_pair(loss, per_token=False, reference=True):
    """Ours, from sums or means of log-ratios or log-probabilities."""

    def run(p, b):
        d = p - b.ref if reference else p
        return loss(*halves(sequence_logp(d, b.mask, mean=per_token))).mean()

    return run


def halves(x):
    return x[: len(x) // 2], x[len(x) // 2 :]


def kto(p, b):
    u, z = sequence_logp(p - b.ref, b.mask), policy.kto_reference(b.mismatched)
    return policy.kto(u, b.rewards.ravel(), z).mean()


def nft(p, b):
    mask = b.mask * informative(b.rewards).reshape(-1, 1)
    rate = jnp.repeat(b.rewards.mean(1), b.rewards.shape[1])
    loss = policy.nft(p, b.old, b.rewards.ravel(), rate, mask)
    return mean(loss, mask, "sum_over_const", 1000)


def gae_of_batch(p, b):
    def one(rewards, values, mask):
        after, never = next_valid(values, mask), jnp.zeros_like(mask)
        return gae(rewards, values, after, never, never, mask=mask, **DISCOUNT)

    return tuple(jax.vmap(one)(b.token_rewards, b.values, b.mask))


def reinforce(p, old, advantage, mask):
    return policy.reinforce(p, advantage, mask)


def table(torch):
    """``name: (ours, theirs)``, functions of log-probabilities and a batch."""
    log_sigmoid = torch.nn.functional.logsigmoid

    def token_mean(loss, b):
        return (loss * b.mask).sum() / b.mask.sum()

    def means(x, b):
        return (x * b.mask).sum(-1) / b.mask.sum(-1).clamp(min=1)

    def mean_of_means(loss, b):
        return means(loss, b).mean()

    def row_mean(loss, b):
        return loss.mean()

    def over_constant(loss, b):
        return (loss * b.mask).sum() / (len(loss) * LONGEST)

    def informative_mean(loss, b):
        keep = (b.rewards.std(1) > 0).repeat_interleave(b.rewards.shape[1])
        return token_mean(loss, b._replace(mask=b.mask * keep[:, None]))

    def given(b):
        return b.advantage

    def centred(b):
        return b.rewards - b.rewards.mean(1, keepdim=True)

    def normed(b):
        return centred(b) / (b.rewards.std(1, keepdim=True) + 1e-6)

    def against_others(b):
        n = b.rewards.shape[1]
        return (n * b.rewards - b.rewards.sum(1, keepdim=True)) / (n - 1)

    def theirs(loss, advantage=given, whole=token_mean, **options):
        return lambda p, b: whole(loss(p, b, advantage(b).view(-1, 1), **options), b)

    def clip(rho, a, low=0.2, high=0.2):
        return -torch.min(rho * a, rho.clamp(1 - low, 1 + high) * a)

    def ppo(p, b, a, high=0.2):
        return clip(torch.exp(p - b.old), a, high=high)

    def dual(p, b, a):
        loss = ppo(p, b, a)
        return torch.where(a < 0, torch.min(loss, -3 * a), loss)

    def grpo(p, b, a):
        d = b.ref - p
        return ppo(p, b, a) + 0.04 * (torch.exp(d) - d - 1)

    def gspo(p, b, a):
        return clip(torch.exp(means(p - b.old, b))[:, None], a, 3e-4, 4e-4)

    def rloo(p, b, a):
        return clip(torch.exp(((p - b.old) * b.mask).sum(-1, keepdim=True)), a)

    def cispo(p, b, a):
        return -torch.exp(p - b.old).clamp(max=5).detach() * a * p

    def sapo(p, b, a):
        tau = torch.where(a > 0, 1.0, 1.05)
        return -torch.sigmoid(tau * (torch.exp(p - b.old) - 1)) * 4 / tau * a

    def gmpo(p, b, a):
        d, sign = p - b.old, torch.sign(a)
        least = sign * torch.min(sign * d, sign * d.clamp(-0.4, 0.4))
        return -a * torch.exp(means(least, b))[:, None]

    def their_nft(p, b):
        rate = b.rewards.mean(1).repeat_interleave(b.rewards.shape[1])[:, None]
        r, rho = rate.clamp(0.02, 0.98), torch.exp(p - b.old)
        rest = (1 - r * rho) / (1 - r)
        # Where the floor acts the gradient goes through, as if it did not.
        rest = rest + (rest.clamp(min=1) - rest).detach()
        loss = -torch.log(torch.where(b.rewards.view(-1, 1) > 0, rho, rest)) * (1 - r)
        return (loss * b.mask * ((rate > 0) & (rate < 1))).sum() / 1000

    def pairs(loss, per_token=False, reference=True):
        def run(p, b):
            d = p - b.ref if reference else p
            u = means(d, b) if per_token else (d * b.mask).sum(-1)
            return loss(*halves(u)).mean()

        return run

    def dpo(w, l):
        return -log_sigmoid(0.1 * (w - l))

    def ipo(w, l):
        return (w - l - 1 / (2 * 0.1)) ** 2

    def simpo(w, l):
        return -log_sigmoid(2 * (w - l) - 1)

    def orpo(w, l):
        odds = (w - l) - (torch.log1p(-torch.exp(w)) - torch.log1p(-torch.exp(l)))
        return -w - 0.1 * log_sigmoid(odds)

    def their_kto(p, b):
        u, good = ((p - b.ref) * b.mask).sum(-1), b.rewards.view(-1) > 0
        z = b.mismatched.mean().clamp(min=0)
        u = torch.cat([u[good] - z, z - u[~good]])
        return (1 - torch.sigmoid(0.1 * u)).mean()

    def their_gae(p, b):
        gamma, lam = DISCOUNT.values()
        following, running, backwards = 0, 0, []
        for t in reversed(range(p.shape[1])):
            value, counts = b.values[:, t], b.mask[:, t]
            delta = b.token_rewards[:, t] + gamma * following - value
            now = delta + gamma * lam * running
            # Over what the policy did not choose, time stands still.
            following = value * counts + (1 - counts) * following
            running = now * counts + (1 - counts) * running
            backwards.append(running)
        advantage = torch.stack(backwards[::-1], 1) * b.mask
        return advantage, advantage + b.values * b.mask

    clipped, how = policy.ppo_clip, "seq_mean_token_mean"
    ours_dr_grpo = by_group(policy.dr_grpo, max_length=LONGEST)
    return {
        "REINFORCE": (by_token(reinforce), theirs(lambda p, b, a: -a * p)),
        "PPO clip": (by_token(clipped), theirs(ppo)),
        "dual clip": (by_token(clipped, dual_clip=3.0), theirs(dual)),
        "GRPO with k3": (
            by_group(policy.grpo, penalty=True),
            theirs(grpo, normed, mean_of_means),
        ),
        "Dr.GRPO": (ours_dr_grpo, theirs(ppo, centred, over_constant)),
        "DAPO": (
            by_group(policy.dapo),
            theirs(ppo, normed, informative_mean, high=0.28),
        ),
        "GSPO": (by_group(policy.gspo), theirs(gspo, normed, mean_of_means)),
        "CISPO": (by_token(policy.cispo), theirs(cispo)),
        "RLOO": (by_group(policy.rloo), theirs(rloo, against_others, row_mean)),
        "SAPO": (by_token(policy.sapo, how), theirs(sapo, given, mean_of_means)),
        "GMPO": (by_token(policy.gmpo, how), theirs(gmpo, given, row_mean)),
        "NFT": (nft, their_nft),
        "DPO": (by_pair(policy.dpo), pairs(dpo)),
        "KTO": (kto, their_kto),
        "IPO": (by_pair(policy.ipo, True), pairs(ipo, True)),
        "SimPO": (by_pair(policy.simpo, True, False), pairs(simpo, True, False)),
        "ORPO": (by_pair(policy.orpo, True, False), pairs(orpo, True, False)),
        "group advantages": (
            lambda p, b: (group_normalize(b.rewards),),
            lambda p, b: (normed(b),),
        ),
        "GAE": (gae_of_batch, their_gae),
    }


def require_equal(name, got, want):
    """Exits unless all elements are equal up to the rounding of float32 sums."""
    for x, y in zip(got, want, strict=True):
        x, y = np.asarray(x), y.numpy()
        bound = 1e-4 * np.abs(y) + 1e-5 * np.abs(y).max()
        if x.shape != y.shape or not np.all(np.abs(x - y) <= bound):
            sys.exit(f"{name} differs by {np.abs(x - y).max()} of {np.abs(y).max()}")


def least_seconds(runs, config):
    """Least seconds of each run, taking turns; work left over ends within a turn."""
    best = [float("inf")] * len(runs)
    for _ in range(config.turns):
        for i, (prepare, run) in enumerate(runs):
            prepare()
            end = time.perf_counter() + config.seconds
            while (start := time.perf_counter()) < end:
                run()
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def main(config: Config) -> None:
    # Threads that spin while they wait cost 100 times on a machine with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import torch
    except ImportError:
        sys.exit("PyTorch is what this compares with: pip install torch")
    jax.config.update("jax_platforms", "cpu")
    logp, batch = make_batch(config)
    inputs = jax.tree.map(jnp.asarray, (logp, batch))
    their_logp, their_batch = (
        torch.from_numpy(logp),
        Batch(*map(torch.from_numpy, batch)),
    )
    cores = os.cpu_count() or 1
    print(f"jax {jax.__version__} jit, torch {torch.__version__} eager, {cores} cores")
    print(f"{config}\n\n| loss | ours | torch | ratio |\n| --- | --- | --- | --- |")
    for name, (ours, theirs) in table(torch).items():
        compiled = jax.jit(ours if name in VALUES_ONLY else jax.value_and_grad(ours))

        def run_ours(compiled=compiled):
            return jax.block_until_ready(compiled(*inputs))

        def run_theirs(name=name, theirs=theirs):
            if name in VALUES_ONLY:
                return theirs(their_logp, their_batch)
            p = their_logp.detach().requires_grad_()
            loss = theirs(p, their_batch)
            return loss.detach(), *torch.autograd.grad(loss, p)

        require_equal(name, run_ours(), run_theirs())
        threads = [functools.partial(torch.set_num_threads, n) for n in (1, cores)]
        runs = [(lambda: None, run_ours), *((n, run_theirs) for n in threads)]
        fast, *slow = least_seconds(runs, config)
        times = f"{1e3 * fast:.2f} ms | {1e3 * min(slow):.2f} ms"
        print(f"| {name} | {times} | {min(slow) / fast:.1f} x |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
