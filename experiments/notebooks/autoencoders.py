# %% [markdown]
# # Autoencoders: learning to generate digits
#
# A variational autoencoder is a latent variable model $p(x) = \int p(x \mid z)\, p(z)\, dz$ whose
# $p(x \mid z)$ is a network. Nobody can take this integral, but a second network that guesses
# $q(z \mid x)$ gives a lower bound of its logarithm:
#
# $$ \log p(x) \;\ge\; \underbrace{\mathbb E_q[\log p(x \mid z)]}_{\text{reconstruction}}
#    - \underbrace{\mathrm{KL}[q(z \mid x) \,\Vert\, p(z)]}_{\text{price of the code}} $$

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from unsup_jax import sweep
from unsup_jax.autoencoders import networks, training, vae

bunch = load_digits()
x = jnp.asarray(bunch.data > 7, jnp.float32)  # black or white, so that the likelihood is one
train, valid, test = x[:1400], x[1400:1600], x[1600:]

# %% [markdown]
# ## Networks are descriptions, parameters are values
#
# The encoder gives $\mu$ and $\log \sigma$ of two coordinates, the decoder takes two.

# %%
model = vae.VAE(networks.MLP((64, 4)), networks.MLP((64, 64)))
params = vae.init(jax.random.key(0), x, model=model)
bound = vae.elbo(params, jax.random.key(1), test, model=model)
print(f"untrained: ELBO {bound.elbo.mean():.1f} nats an image")

# %% [markdown]
# Training is one program: epochs, batches, validation and the choice of the best epoch.

# %%
loss = partial(vae.loss, model=model)
fit = training.fit(
    params, jax.random.key(2), train, valid, learning_rate=3e-3, loss=loss, n_epochs=40
)
bound = vae.elbo(fit.params, jax.random.key(1), test, model=model)
print(f"trained: ELBO {bound.elbo.mean():.1f}")
print(f"       = reconstruction {bound.reconstruction.mean():.1f} - KL {bound.kl.mean():.1f}")
better = vae.log_likelihood(fit.params, jax.random.key(3), test, model=model, n_samples=200)
print(f"log p(x), by 200 draws an image: {better.log_prob.mean():.1f}")
assert better.log_prob.mean() > bound.elbo.mean()

# %%
codes = vae.encode(fit.params, x, model=model).mean
plane = vae.latent_grid(fit.params, model=model, n_steps=12).reshape(12, 12, 8, 8)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
dots = left.scatter(*codes.T, c=bunch.target, cmap="tab10", s=6)
fig.colorbar(dots, ax=left, label="digit")
left.set(xlabel="$z_1$", ylabel="$z_2$", title="where the digits lie")
right.imshow(plane.transpose(0, 2, 1, 3).reshape(96, 96), cmap="gray")
right.set_axis_off()
right.set_title("what every place decodes to")
plt.show()

# %% [markdown]
# ## What scikit-learn can't do: a sweep of trained networks in one program
#
# The price of the code may be raised or lowered by a factor $\beta$. Five prices and two seeds
# are ten lanes of one `vmap` over the whole training; a learning rate would be one more axis.


# %%
def trained(train, valid, beta, key):
    start = vae.init(key, train, model=model)
    return training.fit(
        start,
        key,
        train,
        valid,
        learning_rate=3e-3,
        hyper={"beta": beta},
        loss=loss,
        n_epochs=20,
    )


points = sweep.grid(beta=[0.1, 0.3, 1.0, 3.0, 10.0], key=jax.random.split(jax.random.key(4), 2))
swept = sweep.run(trained, points, train, valid)
test_bound = partial(vae.elbo, model=model)
bounds = jax.vmap(test_bound, in_axes=(0, None, None))(swept.fits.params, jax.random.key(1), test)
averages = jax.tree.map(lambda leaf: leaf.mean(1).reshape(5, 2).mean(1), bounds)
for beta, elbo, reconstruction, kl in zip(points["beta"][::2], *averages, strict=True):
    print(f"beta {beta:4.1f}: ELBO {elbo:.1f} = {reconstruction:.1f} - {kl:.1f}")
assert (jnp.diff(averages.kl) < 0).all()  # a dearer code says less
