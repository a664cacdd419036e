"""The language model against a transformer written in numpy; its cache and sampler."""

import dataclasses
import functools
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlib_guidance.attention import inject, steer
from jaxlib_guidance.files import CorruptFileError
from jaxlib_guidance.models import (
    chat,
    completion_logp,
    empty_cache,
    generate,
    lm_tiny,
    load_smollm2,
    logits,
    pad_rows,
    smollm2_135m,
    unembedding,
)
from jaxlib_guidance.models.lm._tokens import CHARACTERS
from jaxlib_guidance.rng import sample_keys

V, WIDTH, DEPTH, HEADS, KV, HIDDEN = 50, 32, 2, 4, 2, 64
BASE, EPS = 1000.0, 1e-3
STEPS, EOS = 6, (3, 7)
ROWS = [[5, 6, 7, 8, 9], [10, 11], [12], [13, 14, 15]]
WARM = np.full(4, 0.8, np.float32)
TOKENS = np.random.default_rng(0).integers(0, V, (4, 9))


def llama(seed=0, tied=True):
    """Random tensors by the names and in the shapes of a Llama file."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (V, WIDTH), "output_norm": (WIDTH,)}
    if not tied:
        shapes["output"] = (V, WIDTH)
    for i in range(DEPTH):
        block = {
            "attn_norm": (WIDTH,),
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (WIDTH * KV // HEADS, WIDTH),
            "attn_v": (WIDTH * KV // HEADS, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_norm": (WIDTH,),
            "ffn_gate": (HIDDEN, WIDTH),
            "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    return {
        f"{name}.weight": rng.standard_normal(shape).astype(np.float32)
        / (1 if len(shape) == 1 else np.sqrt(shape[-1]).astype(np.float32) / 2)
        for name, shape in shapes.items()
    }


METADATA = {
    "general.architecture": "llama",
    "llama.block_count": np.array(DEPTH, np.uint32),
    "llama.embedding_length": np.array(WIDTH, np.uint32),
    "llama.feed_forward_length": np.array(HIDDEN, np.uint32),
    "llama.attention.head_count": np.array(HEADS, np.uint32),
    "llama.attention.head_count_kv": np.array(KV, np.uint32),
    "llama.rope.freq_base": np.array(BASE, np.float32),
    "llama.attention.layer_norm_rms_epsilon": np.array(EPS, np.float32),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": list(CHARACTERS.values())[:V],
    "tokenizer.ggml.token_type": np.ones(V, np.int32),
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.eos_token_id": np.array(2, np.uint32),
}


def write(path, write_gguf, tensors, **changes):
    held = {name: (0, value.shape, value.tobytes()) for name, value in tensors.items()}
    path.write_bytes(write_gguf(held, METADATA | changes))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_gguf):
    path = tmp_path_factory.mktemp("lm") / "tiny.gguf"
    lm, params, _ = load_smollm2(write(path, write_gguf, llama()))
    return lm, jax.tree.map(jnp.asarray, params)


def rms(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale


def reference(w, tokens):
    """Logits ``[T, V]`` of one sequence in float64, one query at a time."""
    w = {name.removesuffix(".weight"): a.astype(np.float64) for name, a in w.items()}
    x, size = w["token_embd"][tokens], WIDTH // HEADS

    def turn(a, position):
        # Llama files: neighbouring features are a complex number.
        z = a.reshape(-1, size // 2, 2) @ np.array([1, 1j])
        z = z * np.exp(1j * position * BASE ** (-np.arange(0, size, 2) / size))
        return np.stack([z.real, z.imag], -1).reshape(-1, size)

    for i in range(DEPTH):
        own = {
            name.removeprefix(f"blk.{i}."): a
            for name, a in w.items()
            if name.startswith(f"blk.{i}.")
        }
        h = rms(x, own["attn_norm"])
        k = [turn(own["attn_k"] @ row, t) for t, row in enumerate(h)]
        v = [(own["attn_v"] @ row).reshape(KV, size) for row in h]
        for t, row in enumerate(h):
            q, heads = turn(own["attn_q"] @ row, t), []
            for head in range(HEADS):
                group = head * KV // HEADS
                scores = np.array([q[head] @ k[s][group] for s in range(t + 1)])
                weight = np.exp(scores / np.sqrt(size))
                seen = np.array([v[s][group] for s in range(t + 1)])
                heads.append(weight / weight.sum() @ seen)
            x[t] = x[t] + own["attn_output"] @ np.concatenate(heads)
        h = rms(x, own["ffn_norm"])
        gate = h @ own["ffn_gate"].T
        h = gate / (1 + np.exp(-gate)) * (h @ own["ffn_up"].T)
        x = x + h @ own["ffn_down"].T
    return rms(x, w["output_norm"]) @ w.get("output", w["token_embd"]).T


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_a_transformer_in_numpy(tmp_path, write_gguf, tied):
    tensors = llama(1, tied)
    lm, params, _ = load_smollm2(write(tmp_path / "a.gguf", write_gguf, tensors))
    assert lm.tied == tied
    got = jax.jit(lm.apply)({"params": params}, TOKENS)
    assert got.dtype == jnp.float32
    for row, tokens in zip(got, TOKENS, strict=True):
        np.testing.assert_allclose(row, reference(tensors, tokens), atol=3e-5)


def test_reading_with_a_cache_is_reading_at_once(model):
    lm, params = model
    read = jax.jit(functools.partial(lm.apply, method="read"))
    cache, parts = empty_cache(lm, 4, 12), []
    for piece in (slice(0, 4), *(slice(i, i + 1) for i in range(4, 9))):
        states, cache = read({"params": params}, TOKENS[:, piece], None, cache)
        parts.append(logits(states, unembedding(params)))
    got = jnp.concatenate(parts, 1)
    for row, tokens in zip(got, TOKENS, strict=True):
        np.testing.assert_allclose(row, reference(llama(), tokens), atol=3e-5)
    assert cache.length == 9
    np.testing.assert_array_equal(cache.mask, [[True] * 9 + [False] * 3] * 4)


def test_a_cache_that_overflows_is_refused_or_nan(model):
    """4 slots, 3 tokens read: a fourth fits, and two more do not."""
    lm, params = model
    read = functools.partial(lm.apply, {"params": params}, method="read")
    _, cache = jax.jit(read)(TOKENS[:, :3], None, empty_cache(lm, 4, 4))
    with pytest.raises(ValueError, match="3 of 4 slots in use, too many for tokens"):
        read(TOKENS[:, 3:5], None, cache)
    fits, full = jax.jit(read)(TOKENS[:, 3:4], None, cache)
    assert np.isfinite(fits).all()
    over, lost = jax.jit(read)(TOKENS[:, 3:5], None, cache)
    assert np.isnan(over).all()
    for cache in (full, lost):
        assert np.isnan(jax.jit(read)(TOKENS[:, :1], None, cache)[0]).all()


def test_padding_on_either_side_changes_nothing_whatever_it_holds(model):
    lm, params = model
    score = jax.jit(lm.apply)
    want = [reference(llama(), np.array(row)) for row in ROWS]
    for side in ("left", "right"):
        tokens, mask = pad_rows(ROWS, length=7, pad=-100, side=side)
        got = np.asarray(score({"params": params}, tokens, mask))
        for row, line, real in zip(want, got, mask, strict=True):
            np.testing.assert_allclose(line[real], row, atol=3e-5)


def test_no_token_sees_a_later_one_and_unknown_ones_are_nan(model):
    lm, params = model
    score = jax.jit(lm.apply)
    changed = TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % V
    before, after = (score({"params": params}, t) for t in (TOKENS, changed))
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert (jnp.abs(before - after)[:, 5:].max(-1) > 1e-3).all()
    changed[2, 5] = V
    lost = score({"params": params}, changed)
    assert np.isnan(lost[2, 5:]).all()
    np.testing.assert_array_equal(lost[:2], after[:2])


@pytest.fixture(scope="module")
def sampler(model):
    lm, params = model

    @jax.jit
    def run(keys, prompts, mask, temperature):
        return generate(
            *(keys, lm, params, prompts, mask),
            steps=STEPS,
            temperature=temperature,
            eos=EOS,
            pad=1,
        )

    return run


def test_log_probabilities_are_those_of_one_pass(model, sampler):
    keys = sample_keys(jax.random.key(0), 4)
    rescore = jax.jit(
        lambda *arrays: completion_logp(*model, *arrays, temperature=0.8, chunk=17)
    )
    found = {}
    for side in ("left", "right"):
        prompts, mask = pad_rows(ROWS, length=6, side=side)
        found[side] = out = sampler(keys, prompts, mask, WARM)
        again = rescore(prompts, out.tokens, mask, out.mask)
        np.testing.assert_allclose(jnp.exp(again - out.logp), 1, atol=2e-5)
        np.testing.assert_array_equal(out.logp == 0, ~out.mask)
    np.testing.assert_array_equal(found["left"].tokens, found["right"].tokens)
    np.testing.assert_allclose(found["left"].logp, found["right"].logp, atol=2e-5)


@pytest.mark.share(2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_temperatures_by_row_are_scored_by_row(model, dtype):
    lm, params = model
    lm = lm.clone(dtype=dtype)
    heat = np.array([0.5, 0, 1, 2], np.float32)
    prompts, mask = pad_rows(ROWS, length=6)

    @jax.jit
    def run(keys, heat):
        out = generate(keys, lm, params, prompts, mask, steps=1, temperature=heat)
        arrays = prompts, out.tokens, mask, out.mask

        def score(params, heat):
            return completion_logp(lm, params, *arrays, temperature=heat, chunk=17)

        fixed = [score(params, one) for one in (0.5, 0.0, np.float32(1), 2)]
        slopes = [
            jax.grad(lambda p, h=h: score(p, h)[3, 0])(params)["embed"]
            for h in (heat, 2.0)
        ]
        return out.logp, score(params, heat), fixed, slopes

    # The attention kernel's gradient in half precision mixes types.
    with jax.numpy_dtype_promotion("standard"):
        logp, again, fixed, slopes = run(sample_keys(jax.random.key(4), 4), heat)
    np.testing.assert_allclose(again, logp, atol=3e-5)
    for i, one in enumerate(fixed):
        np.testing.assert_allclose(one[i], again[i], atol=3e-5)
    close = 1e-4 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(*slopes, atol=close * np.abs(slopes[1]).max())
    with pytest.raises(ValueError, match=r"temperature is \(3,\)"):
        completion_logp(lm, params, prompts, prompts, temperature=heat[:3])


def test_a_row_is_the_same_in_any_batch(sampler):
    keys = sample_keys(jax.random.key(0), 4)
    prompts, mask = pad_rows(ROWS, length=6)
    whole = sampler(keys, prompts, mask, WARM)
    order = np.array([2, 0, 3, 3])
    other = sampler(keys[order], prompts[order], mask[order], WARM)
    np.testing.assert_array_equal(other.tokens, whole.tokens[order])
    same = sampler(keys, prompts[[0] * 4], mask[[0] * 4], WARM).tokens
    assert len(np.unique(same, axis=0)) > 1


def test_a_sharded_batch_is_sampled_without_collectives(model, sampler):
    keys = sample_keys(jax.random.key(0), 8)
    prompts, mask = (np.repeat(a, 2, 0) for a in pad_rows(ROWS, length=6))
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    inputs = jax.device_put((keys, prompts, mask, np.repeat(WARM, 2)), rows)
    compiled = sampler.lower(*inputs).compile()
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    assert not re.search(names, compiled.as_text())
    out = compiled(*inputs)
    assert out.tokens.sharding.is_equivalent_to(rows, 2)
    halves = [sampler(*(a[half] for a in inputs)) for half in (slice(4), slice(4, 8))]
    whole = np.concatenate([half.tokens for half in halves])
    np.testing.assert_array_equal(out.tokens, whole)


def test_a_sequence_ends_with_its_end_token_and_padding_follows(sampler):
    # Hot enough that many of 4 x 20 rows meet one of the two ends.
    prompts, mask = pad_rows(ROWS, length=6)
    hot = np.full(4, 3.0, np.float32)
    ended = 0
    for i in range(20):
        found = sampler(sample_keys(jax.random.key(i), 4), prompts, mask, hot)
        out = jax.tree.map(np.asarray, found)
        np.testing.assert_array_equal(out.logp == 0, ~out.mask)
        for tokens, real in zip(out.tokens, out.mask, strict=True):
            ends = np.flatnonzero(np.isin(tokens[real], EOS))
            if len(ends):
                ended += 1
                assert ends[0] == real.sum() - 1
            else:
                assert real.all()
            assert (tokens[~real] == 1).all()
            assert (np.diff(real.astype(int)) <= 0).all()
    assert 5 < ended < 75


def test_temperature_zero_takes_the_likeliest_token(sampler):
    keys = sample_keys(jax.random.key(0), 4)
    prompts, mask = pad_rows(ROWS, length=6)
    out = sampler(keys, prompts, mask, np.array([0, 0.8, 0, 0], np.float32))
    warm = sampler(keys, prompts, mask, WARM)
    np.testing.assert_array_equal(out.tokens[1], warm.tokens[1])
    out = jax.tree.map(np.asarray, out)
    for i in (0, 2, 3):
        length = out.mask[i].sum()
        whole = np.array([*ROWS[i], *out.tokens[i, :length]])
        values = reference(llama(), whole)[len(ROWS[i]) - 1 : -1]
        np.testing.assert_array_equal(out.tokens[i, :length], values.argmax(-1))
        want = values.max(-1) - np.log(np.exp(values).sum(-1))
        np.testing.assert_allclose(out.logp[i, :length], want, atol=3e-5)


def test_tokens_are_drawn_from_the_tempered_distribution(model):
    n = 4000
    prompts = np.repeat([ROWS[1]], n, 0)
    out = jax.jit(
        lambda keys: generate(keys, *model, prompts, steps=1, temperature=0.7)
    )(sample_keys(jax.random.key(3), n))
    values = np.exp(reference(llama(), np.array(ROWS[1]))[-1] / 0.7)
    p = values / values.sum()
    counts = np.bincount(out.tokens[:, 0], minlength=V)
    # Each count is within five of its standard deviations.
    assert (np.abs(counts - n * p) < 5 * np.sqrt(n * p) + 1).all()
    np.testing.assert_allclose(out.logp[:, 0], np.log(p)[out.tokens[:, 0]], atol=3e-5)


def test_the_gradient_of_a_completion_is_that_of_dense_logits(model):
    lm, params = model
    prompts, completions = TOKENS[:, :4], TOKENS[:, 4:]
    mask = np.ones((4, 5), bool)
    mask[1, 3:] = False

    def lean(params):
        logp = completion_logp(
            *(lm.clone(remat=True), params, prompts, completions, None, mask), chunk=17
        )
        return jnp.sum(logp**2)

    def dense(params):
        logp = jax.nn.log_softmax(lm.apply({"params": params}, TOKENS)[:, 3:-1])
        logp = jnp.take_along_axis(logp, completions[..., None], -1)[..., 0]
        return jnp.sum(jnp.where(mask, logp, 0) ** 2)

    got, want = jax.jit(lambda p: (jax.grad(lean)(p), jax.grad(dense)(p)))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_half_precision_keeps_float32_logits_and_nearly_the_ratios(model):
    lm, params = model
    half = lm.clone(dtype=jnp.bfloat16)
    prompts, mask = pad_rows(ROWS)

    @jax.jit
    def run(keys):
        out = generate(keys, half, params, prompts, mask, steps=3)
        again = completion_logp(half, params, prompts, out.tokens, mask, out.mask)
        return half.apply({"params": params}, prompts, mask), out.logp, again

    got, logp, again = run(sample_keys(jax.random.key(0), 4))
    assert got.dtype == logp.dtype == again.dtype == jnp.float32
    want = reference(llama(), np.array(ROWS[0]))
    assert 1e-4 < np.abs(got[0] - want).max() < 0.05 * np.abs(want).max()
    np.testing.assert_allclose(again, logp, atol=0.1)


def test_new_parameters_of_the_presets():
    lm = lm_tiny(tied=False)
    params = jax.jit(lm.init)(jax.random.key(0), TOKENS)["params"]
    assert unembedding(params) is params["unembed"]
    first, second = params["blocks"]["q"]["kernel"]
    assert not np.array_equal(first, second)
    big = smollm2_135m(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(big.init, jax.random.key(0), TOKENS)["params"]
    # The size of the released file, as the data specification counts it.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 134_515_008


def test_wrong_arguments_are_named(model):
    lm, params = model
    keys = sample_keys(jax.random.key(0), 4)
    read = functools.partial(lm.apply, {"params": params}, method="read")
    with pytest.raises(ValueError, match=r"tokens is \(9,\); expected \[B, T\]"):
        read(TOKENS[0])
    with pytest.raises(TypeError, match="tokens is float"):
        read(TOKENS.astype(np.float32))
    with pytest.raises(ValueError, match=r"mask is \(4, 8\); expected \(4, 9\)"):
        read(TOKENS, np.ones((4, 8), bool))
    with pytest.raises(TypeError, match="mask is int"):
        read(TOKENS, np.ones((4, 9), int))
    with pytest.raises(ValueError, match=r"cache has \(rows, slots\) \(4, 8\)"):
        read(TOKENS, None, empty_cache(lm, 4, 8))
    with pytest.raises(ValueError, match="heads=3"):
        lm_tiny(heads=3).init(jax.random.key(0), TOKENS)
    start = functools.partial(generate, keys, lm, params)
    with pytest.raises(ValueError, match=r"keys is \(4,\); expected \(3,\)"):
        start(TOKENS[:3], steps=2)
    with pytest.raises(ValueError, match="steps is 0"):
        start(TOKENS, steps=0)
    with pytest.raises(ValueError, match="temperature is -1"):
        start(TOKENS, steps=2, temperature=-1.0)
    with pytest.raises(ValueError, match=r"temperature is \(2,\)"):
        start(TOKENS, steps=2, temperature=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="eos is 50; the vocabulary has 50"):
        start(TOKENS, steps=2, eos=50)
    with pytest.raises(ValueError, match=r"prompts \[1\] have no tokens"):
        start(TOKENS, TOKENS[1] != TOKENS, steps=2)
    with pytest.raises(TypeError, match="typed keys"):
        generate(jnp.zeros((4, 2), jnp.uint32), lm, params, TOKENS, steps=2)


@pytest.mark.parametrize("outside", [-100, -1, V, 400])
def test_tokens_outside_the_vocabulary_are_refused_or_nan(model, outside):
    lm, params = model
    wrong = TOKENS.copy()
    wrong[2, 5] = outside
    message = rf"has the token {outside}; expected 0 to 49"
    keys = sample_keys(jax.random.key(0), 4)
    start = functools.partial(generate, keys, lm, params, steps=2)
    score = functools.partial(completion_logp, lm, params)
    for call in (
        lambda: start(wrong),
        lambda: score(wrong, TOKENS[:, :2]),
        lambda: score(TOKENS[:, :2], wrong),
        lambda: lm.apply({"params": params}, wrong),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    # Where they are padding they may be anything.
    mask = np.ones(wrong.shape, bool)
    mask[2, :6] = False
    got, want = (start(t, mask) for t in (wrong, TOKENS))
    np.testing.assert_array_equal(got.tokens, want.tokens)
    # While tracing nothing can be raised, and nothing is taken for another token.
    got = jax.jit(start)(wrong)
    assert np.isnan(got.logp[2]).all()
    assert np.isfinite(np.delete(got.logp, 2, 0)).all()
    logp = jax.jit(score)(TOKENS[:, :2], wrong)
    assert np.isnan(logp[2, 5:]).all()
    assert np.isfinite(np.delete(logp, 2, 0)).all()


def test_no_prompts_and_no_end(model):
    lm, params = model
    none = generate(sample_keys(jax.random.key(0), 0), lm, params, TOKENS[:0], steps=3)
    assert [a.shape for a in none] == [(0, 3)] * 3
    assert [a.dtype for a in none] == [jnp.int32, jnp.bool_, jnp.float32]
    keys = sample_keys(jax.random.key(0), 4)
    got = [generate(keys, lm, params, TOKENS, steps=3, eos=e) for e in (None, ())]
    jax.tree.map(np.testing.assert_array_equal, *got)
    assert got[0].mask.all()
    # A list of lists is as good as an array.
    rows = generate(keys, lm, params, TOKENS.tolist(), steps=3)
    np.testing.assert_array_equal(rows.tokens, got[0].tokens)
    with pytest.raises(ValueError, match=r"prompts is \(9,\); expected \[B, T\]"):
        generate(keys, lm, params, TOKENS[0], steps=3)
    with pytest.raises(ValueError, match=r"mask is \(4,\); expected \(4, 9\)"):
        generate(keys, lm, params, TOKENS, np.ones(4, bool), steps=3)


def test_files_that_make_no_llama_are_refused(tmp_path, write_gguf):
    tensors = llama()
    path = tmp_path / "a.gguf"
    write(path, write_gguf, tensors, **{"general.architecture": "gpt2"})
    with pytest.raises(ValueError, match="architecture 'gpt2'"):
        load_smollm2(path)
    write(path, write_gguf, {k: v for k, v in tensors.items() if "blk.1" not in k})
    with pytest.raises(CorruptFileError, match=r"blk\.1\.attn_norm"):
        load_smollm2(path)
    for change in (
        {"blk.0.attn_k.weight": np.zeros((3, 5), np.float32)},
        {"blk.0.ffn_up.weight": np.zeros((HIDDEN + 1, WIDTH), np.float32)},
        {"token_embd.weight": np.zeros((V + 1, WIDTH), np.float32)},
        {"output_norm.weight": np.zeros(1, np.float32)},
        {"rope_freqs.weight": np.zeros(4, np.float32)},
    ):
        with pytest.raises(CorruptFileError, match="do not make a Llama"):
            load_smollm2(write(path, write_gguf, tensors | change))
    for name, value in {
        "llama.attention.head_count": np.array(0, np.uint32),
        "llama.attention.head_count_kv": np.array(3, np.uint32),
        "llama.block_count": np.array(2**31, np.uint32),
        "llama.embedding_length": "wide",
        "llama.rope.freq_base": "low",
        "tokenizer.ggml.tokens": np.array(1, np.uint32),
    }.items():
        with pytest.raises(CorruptFileError, match="do not make a Llama"):
            load_smollm2(write(path, write_gguf, tensors, **{name: value}))
    with pytest.raises(FileNotFoundError):
        load_smollm2(tmp_path / "none.gguf")


SMOLLM2 = os.environ.get("SMOLLM2_GGUF")


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2, reason="SMOLLM2_GGUF does not name the file")
def test_smollm2_knows_the_capital_of_france():
    lm, params, tokenizer = load_smollm2(Path(str(SMOLLM2)))
    prompt = tokenizer.encode(chat([("user", "What is the capital of France?")]))
    tokens, mask = pad_rows([prompt])
    run = jax.jit(
        lambda params: generate(
            *(sample_keys(jax.random.key(0), 1), lm, params, tokens, mask),
            steps=12,
            temperature=0.0,
            eos=tokenizer.eos,
        )
    )
    out = run(params)
    answer = tokenizer.decode(out.tokens[0][out.mask[0]])
    assert answer == "The capital of France is Paris."


def test_residuals_are_captured_and_edited_by_block(model):
    """An edit moves the captured stream by its direction, and what follows alone."""
    lm, params = model
    direction = np.random.default_rng(3).standard_normal(WIDTH).astype(np.float32)
    taps = functools.partial(
        lm.apply,
        {"params": params},
        TOKENS,
        method="residuals",
        capture=("block0", "block1"),
    )
    plain = taps()
    moved = taps(control={"block0": steer(direction, jnp.arange(4.0))})
    want = plain["block0"] + np.arange(4.0)[:, None, None] * direction
    np.testing.assert_allclose(moved["block0"], want, atol=1e-5)
    gap = np.abs(moved["block1"] - plain["block1"]).max((1, 2))
    assert gap[0] == 0
    assert (gap[1:] > 0.1).all()
    # The last block's stream is what is normed and read out.
    scale = np.asarray(params["norm"]["scale"])
    states, _ = lm.apply({"params": params}, TOKENS, method="read")
    np.testing.assert_allclose(rms(plain["block1"], scale), states, atol=1e-5)


def test_strength_0_is_off_to_the_bit_and_edits_are_scored_as_sampled(model):
    lm, params = model
    direction = np.random.default_rng(3).standard_normal(WIDTH).astype(np.float32)
    prompts, mask = pad_rows(ROWS, length=6)
    keys = sample_keys(jax.random.key(1), jnp.arange(4))

    @jax.jit
    def run(strength):
        control = {"block1": steer(direction, strength)}
        given = lm, params, prompts
        out = generate(keys, *given, mask, steps=STEPS, eos=EOS, control=control)
        rest = out.tokens, mask, out.mask
        return out, completion_logp(*given, *rest, control=control)

    plain = jax.jit(
        lambda: generate(keys, lm, params, prompts, mask, steps=STEPS, eos=EOS)
    )
    (out, _), want = run(0.0), plain()
    for x, y in zip(out, want, strict=True):
        np.testing.assert_array_equal(x, y)
    out, scored = run(3.0)
    np.testing.assert_allclose(scored, out.logp, atol=2e-5)
    assert np.any(out.tokens != want.tokens)


def test_no_edit_leaves_the_program_as_it_was(model):
    lm, params = model
    read = functools.partial(lm.apply, {"params": params}, method="read")
    programs = [
        jax.make_jaxpr(functools.partial(read, **x))(TOKENS)
        for x in ({}, {"control": {}})
    ]
    assert str(programs[0]) == str(programs[1])
    with pytest.raises(ValueError, match=r"control names \['block7'\].*block0, block1"):
        read(TOKENS, control={"block7": steer(np.zeros(WIDTH))})
    with pytest.raises(ValueError, match=r"\['block0'\].add has shape \(3,\)"):
        read(TOKENS, control={"block0": steer(np.zeros(3))})
    with pytest.raises(TypeError, match="expected an attention.FeatureEdit with add"):
        read(TOKENS, control={"block0": np.zeros(WIDTH)})
    edit = dataclasses.replace(inject("x"), add=np.zeros(WIDTH))
    with pytest.raises(ValueError, match="has borrow, borrow_gate; the residual"):
        read(TOKENS, control={"block0": edit})
