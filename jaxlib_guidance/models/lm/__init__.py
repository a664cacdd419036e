"""Language models: network, tokens, generation."""

from jaxlib_guidance.models.lm._generate import Generated, completion_logp, generate
from jaxlib_guidance.models.lm._network import (
    LM,
    Cache,
    empty_cache,
    lm_tiny,
    logits,
    unembedding,
)
from jaxlib_guidance.models.lm._smollm2 import load_smollm2, smollm2_135m
from jaxlib_guidance.models.lm._tokens import (
    Tokenizer,
    byte_characters,
    chat,
    pad_rows,
    split_words,
    tokenizer_from_gguf,
)

__all__ = [
    # The network
    "Cache",
    "LM",
    "empty_cache",
    "unembedding",
    "logits",
    "lm_tiny",
    # Generation
    "Generated",
    "generate",
    "completion_logp",
    # Tokens
    "Tokenizer",
    "byte_characters",
    "split_words",
    "tokenizer_from_gguf",
    "chat",
    "pad_rows",
    # SmolLM2
    "smollm2_135m",
    "load_smollm2",
]
