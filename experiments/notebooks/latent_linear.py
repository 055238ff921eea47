# %% [markdown]
# # Latent linear models: two views of PCA
#
# A sample is a few hidden numbers $z$, carried into the space of the data by orthonormal axes $W$:
# $x \approx \mu + W' z$. Which axes?

# %%
import os

# Let this CPU play four devices: see the end. Must be said before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from unsup_jax import distributed
from unsup_jax.linear import pca

images = load_digits().data  # 1797 of 8 x 8, grey levels 0..16
noise = np.random.default_rng(0).random(images.shape)  # a level stands for all greys up to the next
x = jnp.asarray((images + noise) / 17, jnp.float32)
params = pca.fit(x, n_components=64)

# %% [markdown]
# ## Analysis and synthesis
#
# *Analysis*: the axes that keep the most variance. *Synthesis*: those that lose the least,
#
# $$ J(W) = \frac 1 N \sum_i \lVert x_i - \mu - W' z_i \rVert^2, \qquad z_i = W (x_i - \mu). $$
#
# They are the same axes, since what is lost is the variance of the axes left out:
# $J = \sum_{l > L} \lambda_l$.

# %%
for n_axes in (1, 5, 20):
    kept = pca.truncate(params, n_components=n_axes)
    z = pca.transform(kept, x)
    lost = ((x - pca.inverse_transform(kept, z)) ** 2).sum(1).mean()
    tail = params.explained_variance[n_axes:].sum()
    print(f"L={n_axes:2}  J = {lost:.4f}  sum of the other eigenvalues = {tail:.4f}")
    assert jnp.allclose(lost, tail, rtol=1e-3)

# %%
fig, axes = plt.subplots(2, 6, figsize=(8, 3), layout="constrained")
for ax, picture in zip(axes.flat, [params.mean, *params.components], strict=False):
    ax.imshow(picture.reshape(8, 8), cmap="gray")
    ax.axis("off")
axes[0, 0].set_title("mean")
plt.show()

# %% [markdown]
# ## PCA is a density, too
#
# Probabilistic PCA puts a Gaussian on $z$ and noise of variance $\sigma^2$ on the rest:
# $p(x) = \mathcal N(x \mid \mu,\; W' (\Lambda - \sigma^2 I) W + \sigma^2 I)$. So it scores
# images it has never seen, which tells how many axes are worth having.

# %%
train, test = x[:1400], x[1400:]
sizes = (2, 5, 10, 20, 30, 40, 50)
scores = [pca.log_prob(pca.fit(train, n_components=n), test).mean() for n in sizes]
for n, score in zip(sizes, scores, strict=True):
    print(f"{n:2} axes: {score:.1f} nats an image")

# %% [markdown]
# ## What scikit-learn can't do: one model, four devices
#
# The fit needs sums over the samples and nothing else. `data_parallel` gives every device its share
# of the rows, adds the sums up, and the answer is the same. On a machine with four GPUs this is
# the same line.

# %%
mesh = distributed.make_mesh()
sharded = distributed.data_parallel(pca.fit, mesh)(x, n_components=10)
alone = pca.fit(x, n_components=10)
print(f"{mesh.size} devices; axes differ by {abs(sharded.components - alone.components).max():.1e}")
assert jnp.allclose(sharded.components, alone.components, atol=1e-4)

# %% [markdown]
# ## And a gradient through a fit
#
# Which image pulls hardest on the first axis? Every sample has a weight, and the fit is
# differentiable: $\partial \lambda_1 / \partial w_i$ is the influence of image $i$.


# %%
def first_variance(weights):
    return pca.fit(x, weights, n_components=1).explained_variance[0]


influence = jax.grad(first_variance)(jnp.ones(len(x)))
pulls = jnp.argsort(influence)[::-1][:6]
fig, axes = plt.subplots(1, 6, figsize=(8, 1.7), layout="constrained")
for ax, i in zip(axes, pulls, strict=True):
    ax.imshow(x[i].reshape(8, 8), cmap="gray")
    ax.axis("off")
fig.suptitle("the six images with the most influence on the first axis")
plt.show()

heavier = first_variance(jnp.ones(len(x)).at[pulls[0]].add(0.5))
print("predicted", influence[pulls[0]] * 0.5, "found", heavier - first_variance(jnp.ones(len(x))))
