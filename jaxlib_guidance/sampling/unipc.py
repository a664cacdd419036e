"""UniPC: multistep in log-SNR for x0, each step corrected at no cost."""

from jaxlib_guidance.sampling.loop import Sampler
from jaxlib_guidance.sampling.multistep import multistep


def unipc(order: int = 2) -> Sampler:
    """UniPC-p with ``B_2``: DPM-Solver++ as predictor, and a corrector for free.

    UniPC's coefficients solve a linear system that makes a step exact for x0 polynomial
    in ``log(alpha / sigma)``; here that polynomial is integrated directly. The numbers
    are the same wherever the system fixes them (there ``B`` drops out); it does not for
    a straight line, which ``B_2`` integrates by its middle.

    Args:
      order: Order of the predictor, 1 to 4; the corrector has one more.

    Reference: Zhao et al., arXiv 2302.04867, algorithms 1 and 2.
    """
    return multistep("logsnr", order, correct=True, midpoint=True)
