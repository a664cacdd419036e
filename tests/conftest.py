"""Eight virtual CPU devices and strict dtype promotion, set before jax is used.

The suite compiles much and computes little, so XLA optimises little here and in the
processes that tests start; ``JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest`` compiles as
users do, in twice the time.
"""

import os

import jax

if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    # Later versions refuse the flag.
    if jax.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
        )
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
