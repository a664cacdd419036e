"""Token numbers are those of the vocabulary."""

from jaxlib_guidance.types import Array, concrete


def require_tokens(tokens: Array, mask: Array, vocabulary: int, name: str) -> None:
    """Raises for concrete tokens outside the vocabulary, where they are not padding.

    Args:
      tokens: Integers ``[B, T]``.
      mask: ``bool [B, T]``, False on padding, which may be any number.
      vocabulary: Number of tokens.
      name: Name of the argument, for the message.

    Raises:
      ValueError: A token below 0, such as the -100 of ignored labels, or too large.
    """
    known, real = concrete(tokens), concrete(mask)
    if known is None or real is None:
        return
    outside = known[real.astype(bool) & ((known < 0) | (known >= vocabulary))]
    if outside.size:
        raise ValueError(
            f"{name} has the token {outside[0]}; expected 0 to {vocabulary - 1} "
            "where the mask is True"
        )
