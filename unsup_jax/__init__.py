"""Classical unsupervised learning in JAX: pure functions, whole fits that jit and vmap."""
