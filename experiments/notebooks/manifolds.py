# %% [markdown]
# # Manifolds: unrolling by neighbourhoods
#
# The samples $x_i$ lie on a sheet that is rolled up in space. Distances through the air mislead,
# but those to the nearest neighbours are not.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_swiss_roll

from unsup_jax import sweep
from unsup_jax.manifold import affinities, lle, neighbors, starts, tsne

narrow = np.array([1.0, 0.5, 1.0])
roll, along = make_swiss_roll(600, random_state=0)
x = jnp.asarray(roll * narrow, jnp.float32)
new = jnp.asarray(make_swiss_roll(100, random_state=1)[0] * narrow, jnp.float32)

# %% [markdown]
# ## Locally linear embedding in its two steps
#
# 1. Write every sample as a mixture of its neighbours,
#    $\min_w \lVert x_i - \sum_j w_{ij} x_j \rVert^2$ with $\sum_j w_{ij} = 1$.
# 2. Find coordinates that the same mixtures reproduce,
#    $\min_Z \sum_i \lVert z_i - \sum_j w_{ij} z_j \rVert^2$ at mean 0 and covariance $I$: the
#    bottom eigenvectors of $(I - W)'(I - W)$, but for the constant one.
#
# Its relative `ltsa` asks for an affine map of each neighbourhood's tangent plane instead of a
# mixture, which keeps the sheet a rectangle.

# %%
near = neighbors.knn(x, n_neighbors=10)
w = lle.weights(x, x, near.indices)
missed = ((x - jnp.einsum("nk,nkd->nd", w, x[near.indices])) ** 2).sum(1).mean()
print(f"weights sum to {w.sum(1).min():.3f}..{w.sum(1).max():.3f}; squared error {missed:.1e}")

params = lle.fit(x, near, n_components=2, method="ltsa")
print("cost of the coordinates", params.eigenvalues, "residuals", params.residuals)
placed = lle.transform(params, new)  # points that the fit has never seen

# %%
fig = plt.figure(figsize=(9, 4), layout="constrained")
left = fig.add_subplot(1, 2, 1, projection="3d")
left.scatter(*x.T, c=along, s=8)
left.view_init(10, -75)
left.set_aspect("equal")
right = fig.add_subplot(1, 2, 2)
right.scatter(*params.embedding.T, c=along, s=8)
right.scatter(*placed.T, facecolors="none", edgecolors="k", s=25, label="new points")
right.set(xlabel="first coordinate", ylabel="second coordinate")
right.legend()
plt.show()

# %% [markdown]
# How well is it unrolled? The first coordinate should follow the position along the roll.

# %%


def agreement(embedding, along):
    """The largest absolute rank correlation of a coordinate with the position along the roll."""
    ranks = lambda a: jnp.argsort(jnp.argsort(a)).astype(jnp.float32)  # noqa: E731
    z = jnp.stack([ranks(along), *(ranks(c) for c in embedding.T)])
    return jnp.abs(jnp.corrcoef(z)[0, 1:]).max()


along = jnp.asarray(along, jnp.float32)
print(f"agreement {agreement(params.embedding, along):.3f}")
assert agreement(params.embedding, along) > 0.98

# %% [markdown]
# ## t-SNE: only who is near whom
#
# Affinities $p_{j|i} \propto e^{-\lVert x_i - x_j \rVert^2 / 2 \sigma_i^2}$, each $\sigma_i$ such
# that sample $i$ has about *perplexity* neighbours, and $p_{ij} = (p_{j|i} + p_{i|j}) / 2n$. On the
# map $q_{ij} \propto (1 + \lVert y_i - y_j \rVert^2)^{-1}$. Gradient descent minimises
# $\mathrm{KL}(P \Vert Q) = \sum_{ij} p_{ij} \log (p_{ij} / q_{ij})$, whose derivative pulls and
# pushes: $4 \sum_j (p_{ij} - q_{ij}) (y_i - y_j) (1 + \lVert y_i - y_j \rVert^2)^{-1}$.
#
# The perplexity is a traced number, so that one `vmap` draws the maps of all of them.

# %%
some, colours = x[::2], along[::2]
perplexities = jnp.asarray([5.0, 15.0, 40.0, 80.0])


def map_of(perplexity):
    return tsne.fit(starts.pca(some), affinities.dense(some, perplexity), max_iter=500)


maps = jax.jit(jax.vmap(map_of))(perplexities)
fig, row = plt.subplots(1, len(perplexities), figsize=(11, 3), layout="constrained")
for axes, perplexity, y in zip(row, perplexities, maps.params.embedding, strict=True):
    axes.scatter(*y.T, c=colours, s=8)
    axes.set(title=f"perplexity {perplexity:g}", xticks=[], yticks=[], aspect="equal")
plt.show()
print("KL in nats", maps.objective)
assert jnp.isfinite(maps.objective).all()

# %% [markdown]
# ## What scikit-learn can't do: a sweep of embeddings in one program
#
# How much noise does it bear, and does a stronger ridge on the weights help? The neighbours, the
# weights and the eigenvectors of all 4 x 3 embeddings come out of one compiled program.

# %%


def unrolled(x, along, noise, reg):
    noisy = x + noise * jax.random.normal(jax.random.key(0), x.shape)
    found = lle.fit(noisy, None, reg, n_components=2, n_neighbors=10)
    return agreement(found.embedding, along)


points = sweep.grid(noise=[0.0, 0.2, 0.4, 0.8], reg=[1e-4, 1e-3, 1e-2])
swept = sweep.run(unrolled, points, x[::2], along[::2], batch_size=4)
for row in sweep.table(swept):
    print(f"noise {row['noise']:.1f}  ridge {row['reg']:.0e}  agreement {row['result']:.3f}")

# %% [markdown]
# ## And the map has a derivative
#
# `transform` is differentiable: its Jacobian says where a small move of a point takes it on the
# map. One direction of three must get lost: the normal of the sheet.

# %%
point = new[:1]
jacobian = jax.jacfwd(lambda p: lle.transform(params, p)[0])(point)[:, 0]
forgets = np.linalg.svd(jacobian)[2][2]
around = x[neighbors.knn(point, x, n_neighbors=10).indices[0]]
normal = np.linalg.svd(around - around.mean(0))[2][2]
print("the direction that the map forgets:", forgets, "the normal of the sheet:", normal)
assert abs(forgets @ normal) > 0.95
