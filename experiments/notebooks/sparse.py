# %% [markdown]
# # Sparse linear models: a picture as a few strokes
#
# Given atoms $w_j$, the lasso explains a signal by few of them:
#
# $$ \min_z \; \tfrac 1 2 \lVert x - W' z \rVert^2 + \lambda \lVert z \rVert_1 $$
#
# The corners of the $\ell_1$ ball make most entries of $z$ exactly zero.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from unsup_jax.sparse import dictionary, lasso, omp

x = jnp.asarray(load_digits().data / 16, jnp.float32)
x = x - x.mean(0)
train, clean = x[:1500], x[1500:1700]

# %% [markdown]
# ## Learn the atoms
#
# Dictionary learning minimises the same objective over $W$ as well, by turns: code all signals,
# then move every atom to its best place.

# %%
start = dictionary.init(jax.random.key(0), train, n_components=64)
fit = dictionary.fit(start, train, 0.3, max_iter=20)
atoms = fit.params
print(f"objective {fit.history[0]:.4f} -> {fit.objective:.4f} an image")

fig, axes = plt.subplots(4, 16, figsize=(8, 2.2), layout="constrained")
for ax, atom in zip(axes.flat, atoms, strict=True):
    ax.imshow(atom.reshape(8, 8), cmap="RdBu", vmin=-0.5, vmax=0.5)
    ax.axis("off")
fig.suptitle("64 atoms of digits")
plt.show()

# %% [markdown]
# ## Codes, and a certificate
#
# A convex problem has a dual: the gap between the two bounds how far a code is from the best one,
# whatever found it. Here it is relative to the objective.

# %%
codes = lasso.encode(atoms, clean, 0.3)
used = (codes.params != 0).sum(1)
print(
    f"{used.mean():.1f} of 64 atoms an image, largest relative duality gap {codes.error.max():.1e}"
)
assert codes.error.max() <= 1e-5

greedy = omp.encode(atoms, clean, n_nonzero=int(used.mean()))
for name, z in (("lasso", codes.params), ("matching pursuit", greedy)):
    print(f"{name}: squared error {((clean - z @ atoms) ** 2).sum(1).mean():.3f}")

# %% [markdown]
# ## What scikit-learn can't do: a gradient through a fit
#
# How large should $\lambda$ be to remove noise? A grid of values would tell. But the codes are a
# differentiable function of $\lambda$: on the active atoms $A$,
#
# $$ z_A = (W_A W_A')^{-1} (W_A x - \lambda \, \mathrm{sign}\, z_A)
#    \quad\Rightarrow\quad
#    \frac{\partial z_A}{\partial \lambda} = -(W_A W_A')^{-1} \, \mathrm{sign}\, z_A. $$
#
# So walk downhill. The same works for the atoms, or for anything that made the signal.

# %%
noisy = clean + 0.15 * jax.random.normal(jax.random.key(1), clean.shape)


@jax.jit
@jax.value_and_grad
def error(log_lam):
    z = lasso.encode(atoms, noisy, jnp.exp(log_lam)).params
    return ((clean - z @ atoms) ** 2).sum(1).mean()


log_lam = jnp.log(0.8)
for step in range(25):
    value, slope = error(log_lam)
    if step % 5 == 0:
        print(f"lambda {jnp.exp(log_lam):.3f}  error {value:.4f}  slope {slope:+.4f}")
    log_lam = log_lam - slope

# %% [markdown]
# The grid agrees:

# %%
lams = jnp.geomspace(0.03, 1.5, 25)
errors = jnp.stack([error(jnp.log(lam))[0] for lam in lams])
fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
ax.semilogx(lams, errors, ".-", label="grid")
ax.axvline(jnp.exp(log_lam), color="tab:orange", label="found by its gradient")
ax.axhline(((clean - noisy) ** 2).sum(1).mean(), color="0.6", ls="--", label="the noise")
ax.set(xlabel=r"$\lambda$", ylabel="squared error of an image")
ax.legend()
plt.show()
assert error(log_lam)[0] <= errors.min() * 1.001
