"""Covariance structures of a Gaussian mixture: Full, Tied, Diagonal, Spherical.

Each is a small pytree that knows three things: how to look at points (their squared Mahalanobis
distances from the means, and moments about the means that share the work), how moments become a
structure again (the M-step) and back, and what it looks like as dense matrices. Inside, data are
feature-major, `(d, n)`, so that sums over features run along whole vectors of samples; means and
data are relative to a common origin.

Nothing here subtracts large squares, which is what ruins float32 mixtures. A scatter is taken as
`sum_i r_i (x_i - mu) x_i' - [sum_i r_i (x_i - mu)] mu'`, whose error grows like `|mu| / sigma` and
not like its square, as long as the bracket is a sum of differences and not a difference of sums;
distances are sums of squared whitened differences. The exceptions, the fast paths of `Diagonal` and
of `Full` in few dimensions, expand the squares, and are taken only where that is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Scalar

from unsup_jax.core.lanes import any_lane
from unsup_jax.core.linalg import einsum, inverse_tril, matmul, safe_cholesky

FEW = 12  # features: up to here, products of two features shared by all components are cheaper

Moments: TypeAlias = Callable[
    [Float[Array, "k n"]], tuple[Float[Array, "k d"], Float[Array, "..."]]
]
Result = TypeVar("Result")
View: TypeAlias = Callable[[Float[Array, "d n"]], tuple[Float[Array, "k n"], Moments]]


class Full(NamedTuple):
    """One covariance a component, `Sigma_k = L_k L_k'`.

    Attributes:
        scale_tril: Lower-triangular `L_k`, shape (k, d, d).
    """

    scale_tril: Float[Array, "k d d"]

    def views(self, means: Float[Array, "k d"]) -> tuple[View, ...]:
        """Distances `||L_k^{-1} (x_i - mu_k)||^2`, and scatters about the means.

        The scatter is `L_k sum_i r_ik y_ik (x_i - mu_k)'` of the whitened residuals `y_ik` that the
        distances are made of. In few dimensions both are products with the monomials of the
        features: `x'Px - 2 x'P mu + mu'P mu`, `P = (L L')^{-1}`.
        """
        k, d = means.shape
        whitening = inverse_tril(self.scale_tril)
        offset = einsum("kij,kj->ki", whitening, means)

        def careful(xt):
            whitened = matmul(whitening.reshape(k * d, d), xt).reshape(k, d, -1)
            residual = whitened - offset[:, :, None]

            def moments(r):
                weighted = (r[:, None, :] * residual).reshape(k * d, -1)
                ones = jnp.ones((1, xt.shape[1]), xt.dtype)
                products = matmul(weighted, jnp.concatenate([xt, ones]).T).reshape(k, d, d + 1)
                products = matmul(self.scale_tril, products)
                first = products[:, :, d]
                return first, products[:, :, :d] - first[:, :, None] * means[:, None, :]

            return (residual**2).sum(1), moments

        if d > FEW:
            return (careful,)
        precision = einsum("kji,kjl->kil", whitening, whitening)
        rows, columns = np.triu_indices(d)
        twice = np.where(rows == columns, 1, 2).astype(means.dtype)
        quadratic = twice[None] * precision[:, rows, columns]
        linear = -2 * einsum("kij,ki->kj", whitening, offset)
        constant = (offset**2).sum(1, keepdims=True)
        coefficients = jnp.concatenate([quadratic, linear, constant], axis=1)

        def fast(xt):
            products = [xt[a : a + 1] * xt[a:] for a in range(d)]
            monomials = jnp.concatenate([*products, xt, jnp.ones_like(xt[:1])])

            def moments(r):
                raw = matmul(r, monomials.T)
                upper = jnp.zeros((k, d, d), r.dtype).at[:, rows, columns].set(raw[:, : len(rows)])
                second = upper + jnp.triu(upper, 1).swapaxes(1, 2)
                mass = raw[:, -1:]
                first = raw[:, len(rows) : -1] - mass * means
                cross = first[:, :, None] * means[:, None, :]
                square = (mass * means)[:, :, None] * means[:, None, :]
                return first, second - cross - cross.swapaxes(1, 2) - square

            return jnp.maximum(matmul(coefficients, monomials), 0), moments

        return careful, fast

    def far(self, means: Float[Array, "k d"]) -> Bool[Array, ""]:
        """Whether the expanded square, which loses `eps sum_j P_jj E[x_j^2]`, costs 1e-4 nats."""
        precision = (inverse_tril(self.scale_tril) ** 2).sum(1)
        power = means**2 + (self.scale_tril**2).sum(2)
        eps = jnp.finfo(means.dtype).eps
        return (precision * power).sum(1).max() * eps > 1e-4

    def update(
        self,
        scatter: Float[Array, "k d d"],
        mass: Float[Array, "k"],
        shift: Float[Array, "k d"],
        reg_covar: Scalar,
    ) -> Full:
        """`Sigma_k = scatter_k / mass_k - shift_k shift_k' + reg_covar I`, factorised."""
        covariance = scatter / mass[:, None, None] - shift[:, :, None] * shift[:, None, :]
        return Full(_factor(covariance, reg_covar))

    def scatter(self, mass: Float[Array, "k"], d: int, reg_covar: Scalar) -> Float[Array, "k d d"]:
        """The scatter about the means from which `update` makes this structure."""
        ridge = reg_covar * jnp.eye(d, dtype=mass.dtype)
        return mass[:, None, None] * (self.dense(len(mass), d) - ridge[None])

    def half_log_det(self, d: int) -> Float[Array, "k"]:
        """Half the log-determinant of each covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril, axis1=1, axis2=2)).sum(1)

    def factors(self, k: int, d: int) -> Float[Array, "k d d"]:
        """Lower-triangular factors of the covariance matrices."""
        return self.scale_tril

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:
        """The covariance matrices."""
        return einsum("kij,klj->kil", self.scale_tril, self.scale_tril)

    def n_parameters(self, k: int | Int[Array, ""], d: int) -> int | Int[Array, ""]:
        """Number of free covariance parameters of `k` components."""
        return k * d * (d + 1) // 2


class Tied(NamedTuple):
    """One covariance for all components, `Sigma = L L'`.

    Attributes:
        scale_tril: Lower-triangular `L`, shape (d, d).
    """

    scale_tril: Float[Array, "d d"]

    def views(self, means: Float[Array, "k d"]) -> tuple[View, ...]:
        """Distances `||L^{-1} (x_i - mu_k)||^2`, and the scatter summed over components."""
        whitening = inverse_tril(self.scale_tril)
        centres = matmul(means, whitening.T)

        def careful(xt):
            def moments(r):
                first = _first_moments(r, xt, means)
                residual = r.sum(0)[None] * xt - matmul(means.T, r)
                return first, matmul(residual, xt.T) - matmul(first.T, means)

            return _squared_differences(matmul(whitening, xt), centres), moments

        return (careful,)

    def update(
        self,
        scatter: Float[Array, "d d"],
        mass: Float[Array, "k"],
        shift: Float[Array, "k d"],
        reg_covar: Scalar,
    ) -> Tied:
        """`Sigma = (scatter - sum_k mass_k shift_k shift_k') / sum_k mass_k + reg_covar I`."""
        between = matmul((mass[:, None] * shift).T, shift)
        return Tied(_factor((scatter - between)[None] / mass.sum(), reg_covar)[0])

    def scatter(self, mass: Float[Array, "k"], d: int, reg_covar: Scalar) -> Float[Array, "d d"]:
        """The scatter about the means from which `update` makes this structure."""
        ridge = reg_covar * jnp.eye(d, dtype=mass.dtype)
        return mass.sum() * (matmul(self.scale_tril, self.scale_tril.T) - ridge)

    def half_log_det(self, d: int) -> Float[Array, "1"]:
        """Half the log-determinant of the covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril)).sum(keepdims=True)

    def factors(self, k: int, d: int) -> Float[Array, "k d d"]:
        """Lower-triangular factors of the covariance matrices."""
        return jnp.broadcast_to(self.scale_tril, (k, d, d))

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:
        """The covariance matrices, all the same."""
        return jnp.broadcast_to(matmul(self.scale_tril, self.scale_tril.T), (k, d, d))

    def n_parameters(self, k: int | Int[Array, ""], d: int) -> int | Int[Array, ""]:
        """Number of free covariance parameters."""
        return d * (d + 1) // 2


class Diagonal(NamedTuple):
    """One variance a component and feature.

    Attributes:
        scale: Standard deviations, shape (k, d).
    """

    scale: Float[Array, "k d"]

    def views(self, means: Float[Array, "k d"]) -> tuple[View, ...]:
        """Distances `sum_j (x_ij - mu_kj)^2 / s_kj^2`, and squares `sum_i r_ik (x_ij - mu_kj)^2`.

        Where no mean is far from the origin in units of its scale, matrix products do it;
        elsewhere the expanded square would cancel, and differences are squared one by one.
        """
        d = means.shape[1]
        precision = self.scale**-2.0
        coefficients = jnp.concatenate([-2 * precision * means, precision], axis=1)
        constant = (means * means * precision).sum(1)[:, None]

        def careful(xt):
            def one(component):
                weights, mean = component
                residual = xt - mean[:, None]
                weighted = weights[None] * residual
                return weighted.sum(1), (weighted * residual).sum(1)

            squares = _squared_differences(xt, means, self.scale)
            return squares, lambda r: lax.map(one, (r, means))

        def fast(xt):
            powers = jnp.concatenate([xt, xt * xt])

            def moments(r):
                mass = r.sum(1)[:, None]
                raw = matmul(r, powers.T)
                first = raw[:, :d] - mass * means
                return first, jnp.maximum(raw[:, d:] - means * (2 * first + mass * means), 0)

            return jnp.maximum(matmul(coefficients, powers) + constant, 0), moments

        return careful, fast

    def far(self, means: Float[Array, "k d"]) -> Bool[Array, ""]:
        """Whether the expanded square, which loses `eps |mu|^2 / s^2`, costs 1e-3 nats."""
        eps = jnp.finfo(means.dtype).eps
        return ((means / self.scale) ** 2).sum(1).max() * eps > 1e-3

    def update(
        self,
        scatter: Float[Array, "k d"],
        mass: Float[Array, "k"],
        shift: Float[Array, "k d"],
        reg_covar: Scalar,
    ) -> Diagonal:
        """`s_k^2 = scatter_k / mass_k - shift_k^2 + reg_covar`."""
        variance = scatter / mass[:, None] - shift * shift
        return Diagonal(jnp.sqrt(jnp.maximum(variance, 0) + reg_covar))

    def scatter(self, mass: Float[Array, "k"], d: int, reg_covar: Scalar) -> Float[Array, "k d"]:
        """The squares about the means from which `update` makes this structure."""
        return mass[:, None] * (self.scale**2 - reg_covar)

    def half_log_det(self, d: int) -> Float[Array, "k"]:
        """Half the log-determinant of each covariance."""
        return jnp.log(self.scale).sum(1)

    def factors(self, k: int, d: int) -> Float[Array, "k d d"]:
        """Lower-triangular factors of the covariance matrices."""
        return self.scale[:, :, None] * jnp.eye(d, dtype=self.scale.dtype)[None]

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:
        """The covariance matrices."""
        return (self.scale**2)[:, :, None] * jnp.eye(d, dtype=self.scale.dtype)[None]

    def n_parameters(self, k: int | Int[Array, ""], d: int) -> int | Int[Array, ""]:
        """Number of free covariance parameters of `k` components."""
        return k * d


class Spherical(NamedTuple):
    """One variance a component.

    Attributes:
        scale: Standard deviations, shape (k,).
    """

    scale: Float[Array, "k"]

    def views(self, means: Float[Array, "k d"]) -> tuple[View, ...]:
        """Distances `||x_i - mu_k||^2 / s_k^2`, and the squares `sum_i r_ik ||x_i - mu_k||^2`."""

        def careful(xt):
            squares = _squared_differences(xt, means)

            def moments(r):
                return _first_moments(r, xt, means), (r * squares).sum(1)

            return squares / (self.scale**2)[:, None], moments

        return (careful,)

    def update(
        self,
        scatter: Float[Array, "k"],
        mass: Float[Array, "k"],
        shift: Float[Array, "k d"],
        reg_covar: Scalar,
    ) -> Spherical:
        """`s_k^2 = (scatter_k / mass_k - ||shift_k||^2) / d + reg_covar`."""
        variance = (scatter / mass - (shift * shift).sum(1)) / shift.shape[1]
        return Spherical(jnp.sqrt(jnp.maximum(variance, 0) + reg_covar))

    def scatter(self, mass: Float[Array, "k"], d: int, reg_covar: Scalar) -> Float[Array, "k"]:
        """The squares about the means from which `update` makes this structure."""
        return mass * d * (self.scale**2 - reg_covar)

    def half_log_det(self, d: int) -> Float[Array, "k"]:
        """Half the log-determinant of each covariance."""
        return d * jnp.log(self.scale)

    def factors(self, k: int, d: int) -> Float[Array, "k d d"]:
        """Lower-triangular factors of the covariance matrices."""
        return self.scale[:, None, None] * jnp.eye(d, dtype=self.scale.dtype)[None]

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:
        """The covariance matrices."""
        return (self.scale**2)[:, None, None] * jnp.eye(d, dtype=self.scale.dtype)[None]

    def n_parameters(self, k: int | Int[Array, ""], d: int) -> int | Int[Array, ""]:
        """Number of free covariance parameters of `k` components."""
        return k


Covariance: TypeAlias = Full | Tied | Diagonal | Spherical
NAMES = ("full", "tied", "diagonal", "spherical")


def look(
    covariance: Covariance, means: Float[Array, "k d"], *, careful: bool = False
) -> Callable[[Callable[[Float[Array, "k n"], Moments], Result], Float[Array, "d n"]], Result]:
    """How components look at points: a function of `(then, xt)`, `then(distances, moments)`.

    `moments(r)` are the first and second moments about the means, `sum_i r_ik (x_i - mu_k)` and the
    scatter of the structure. Of a careful and a fast view, the fast one is taken where that is
    harmless, once for all that `then` does with it; with `careful`, never.
    """
    exact, *fast = covariance.views(means)
    if careful or not fast or isinstance(covariance, Tied | Spherical):
        return lambda then, xt: then(*exact(xt))
    far = any_lane(covariance.far(means))

    def choose(then, xt):
        return lax.cond(far, lambda xt: then(*exact(xt)), lambda xt: then(*fast[0](xt)), xt)

    return choose


def isotropic(name: str, variance: Float[Array, ""], k: int, d: int) -> Covariance:
    """The structure called `name` with covariance `variance * I` in every component."""
    scale = jnp.sqrt(variance)
    eye = scale * jnp.eye(d, dtype=scale.dtype)
    if name == "full":
        return Full(jnp.tile(eye, (k, 1, 1)))
    if name == "tied":
        return Tied(eye)
    if name == "diagonal":
        return Diagonal(jnp.full((k, d), scale))
    return Spherical(jnp.full((k,), scale))


def keep(alive: Bool[Array, "k"], new: Covariance, old: Covariance) -> Covariance:
    """The new covariances of components alive, the old ones of the others; a tied one is new."""
    if isinstance(new, Tied):
        return new

    def choose(a, b):
        return jnp.where(alive.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, new, old)


def _squared_differences(xt, means, scale=None):
    """`sum_j ((x_ij - mu_kj) / s_kj)^2`, one component at a time: (k, n), without a (k, d, n)."""
    inverse = jnp.ones_like(means) if scale is None else 1 / scale

    def one(component):
        mean, factor = component
        return (((xt - mean[:, None]) * factor[:, None]) ** 2).sum(0)

    return lax.map(one, (means, inverse))


def _first_moments(r, xt, means):
    """`sum_i r_ik (x_i - mu_k)`, of differences, one component at a time: (k, d)."""
    return lax.map(lambda c: (c[0][None] * (xt - c[1][:, None])).sum(1), (r, means))


def _factor(covariance, reg_covar):
    symmetric = 0.5 * (covariance + covariance.swapaxes(1, 2))
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return safe_cholesky(symmetric + reg_covar * eye[None])
