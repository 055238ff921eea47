# %% [markdown]
# # Mixtures: which group does a flower come from?
#
# A Gaussian mixture says that every sample comes from one of $K$ groups that nobody has told us:
#
# $$ p(x) = \sum_k \pi_k \, \mathcal N(x \mid \mu_k, \Sigma_k) $$
#
# Expectation-maximisation alternates between guessing the groups and fitting each of them.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from sklearn.datasets import load_iris

from unsup_jax import selection, sweep
from unsup_jax.core.fit import Status
from unsup_jax.mixtures import gaussian

iris = load_iris()
x = jnp.asarray(iris.data[:, 2:], jnp.float32)  # petal length and width, cm
x.shape

# %% [markdown]
# ## One iteration by hand
#
# The E-step takes the responsibilities and adds up what the M-step will need:
#
# $$ r_{ik} = \frac{\pi_k \mathcal N(x_i \mid \mu_k, \Sigma_k)}{p(x_i)}, \qquad
#    N_k = \sum_i r_{ik}, \qquad \sum_i r_{ik} x_i, \qquad \dots $$
#
# and the M-step is a closed form: $\pi_k = N_k / N$, $\mu_k = \sum_i r_{ik} x_i / N_k$, and the
# $\Sigma_k$ likewise.

# %%
start = gaussian.init(jax.random.key(0), x, n_components=3)


@jax.jit
def iteration(params):
    sums = gaussian.e_step(params, x)  # sums: those of two data sets add
    return gaussian.m_step(params, sums), sums.log_likelihood / sums.weight


params = start
for _ in range(10):
    params, objective = iteration(params)
    print(f"log-likelihood {objective:.4f}")

# %% [markdown]
# `fit` is this loop as one program: it keeps the history, stops by itself, and says why.

# %%
fit = gaussian.fit(start, x, tol=-1.0, max_iter=10)
print(Status(int(fit.status)).name, fit.objective)
assert jnp.allclose(fit.params.means, params.means, atol=1e-3)

# %% [markdown]
# ## The density, and how sure we are
#
# Colour is $r_{ik}$ itself: flowers between two groups get a mixed colour.

# %%
fit = gaussian.fit(start, x)
colours = gaussian.responsibilities(fit.params, x)
a, b = jnp.meshgrid(jnp.linspace(0.5, 7.5, 120), jnp.linspace(-0.2, 3, 120))
density = gaussian.log_prob(fit.params, jnp.stack([a, b], -1).reshape(-1, 2)).reshape(a.shape)

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.contour(a, b, density, levels=jnp.linspace(-8, 0, 12), cmap="Greys")
ax.scatter(*x.T, c=colours, s=18)
ax.set(xlabel="petal length, cm", ylabel="petal width, cm", title="one fit, K = 3")
plt.show()

# %% [markdown]
# ## What scikit-learn can't do: every K and every seed in one program
#
# A component whose log weight is $-\infty$ is switched off, so that one program of six components
# fits every smaller $K$ as well. The grid below is 6 x 20 = 120 fits; none of them is a loop.

# %%


def fit_from(x, k, key):
    start = gaussian.init(key, x, n_components=6)
    return gaussian.fit(sweep.activate(start, k), x, reg_covar=1e-3, max_iter=200)


points = sweep.grid(k=jnp.arange(1, 7), key=jax.random.split(jax.random.key(1), 20))
swept = sweep.run(fit_from, points, x)
best = jax.vmap(sweep.best)(sweep.group(swept, 6))  # of the 20 seeds, for every K

n_parameters = jax.vmap(gaussian.n_parameters)(best.fits.params)
bic = selection.bic(len(x) * best.fits.objective, n_parameters, len(x))
for row, value in zip(sweep.table(best), bic, strict=True):
    print(f"K={row['k']}  log-likelihood {row['objective']:.3f}  BIC {value:.1f}  {row['status']}")

# %% [markdown]
# ## How certain are the means?
#
# A bootstrap resample is a vector of weights: how often each flower was drawn. So 200 resamples are
# 200 lanes of the same program, and the spread of their means is a confidence interval.

# %%
keys = jax.random.split(jax.random.key(2), 200)
resamples = jax.vmap(partial(selection.bootstrap, n_samples=len(x)))(keys)
refits = jax.vmap(gaussian.fit, in_axes=(None, None, 0))(fit.params, x, resamples)
low, high = selection.interval(refits.params.means, 0.95, sweep.succeeded(refits))
for k in range(3):
    print(f"group {k}: petal length {low[k, 0]:.2f} to {high[k, 0]:.2f} cm")
assert ((low <= fit.params.means) & (fit.params.means <= high)).all()
