"""Covariance structures of a Gaussian mixture: Full, Tied, Diagonal, Spherical.

Each is a small pytree that knows four things: the squared Mahalanobis distances of points from the
means, the scatter of points about the means, how a scatter becomes a structure again (the M-step),
and what it looks like as dense matrices. Inside, data are feature-major, `(d, n)`, so that sums
over features run along whole vectors of samples; means and data are relative to a common origin.

Nothing here subtracts large squares, which is what ruins float32 mixtures. A scatter is taken as
`sum_i r_i (x_i - mu) x_i' - [sum_i r_i (x_i - mu)] mu'`, whose error grows like `|mu| / sigma` and
not like its square, and distances are sums of squared whitened differences. The one exception, the
fast path of `Diagonal`, is taken only where it is harmless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Scalar

from unsup_jax.core.linalg import einsum, matmul, safe_cholesky, solve_triangular

Distances: TypeAlias = Callable[[Float[Array, "d n"]], Float[Array, "k n"]]


class Full(NamedTuple):
    """One covariance a component, `Sigma_k = L_k L_k'`.

    Attributes:
        scale_tril: Lower-triangular `L_k`, shape (k, d, d).
    """

    scale_tril: Float[Array, "k d d"]

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        """Squared Mahalanobis distances `||L_k^{-1} (x_i - mu_k)||^2`, a function of the points."""
        k, d = means.shape
        whitening = _inverse_tril(self.scale_tril)
        offset = einsum("kij,kj->ki", whitening, means)[:, :, None]

        def measure(xt):
            whitened = matmul(whitening.reshape(k * d, d), xt).reshape(k, d, -1) - offset
            return (whitened * whitened).sum(1)

        return measure

    def scatter(
        self,
        r: Float[Array, "k n"],
        xt: Float[Array, "d n"],
        means: Float[Array, "k d"],
        first: Float[Array, "k d"],
    ) -> Float[Array, "k d d"]:
        """Scatter about the means, `sum_i r_ik (x_i - mu_k)(x_i - mu_k)'`."""
        k, d = means.shape
        weighted = r[:, None, :] * (xt[None] - means[:, :, None])
        products = matmul(weighted.reshape(k * d, -1), xt.T).reshape(k, d, d)
        return products - first[:, :, None] * means[:, None, :]

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

    def half_log_det(self, d: int) -> Float[Array, "k"]:  # noqa: ARG002
        """Half the log-determinant of each covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril, axis1=1, axis2=2)).sum(1)

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:  # noqa: ARG002
        """The covariance matrices."""
        return einsum("kij,klj->kil", self.scale_tril, self.scale_tril)

    def keep(self, alive: Bool[Array, "k"], old: Full) -> Full:
        """This structure for the components alive, the old one for the others."""
        return Full(jnp.where(alive[:, None, None], self.scale_tril, old.scale_tril))

    def n_parameters(self, k: int, d: int) -> int:
        """Number of free covariance parameters of `k` components."""
        return k * d * (d + 1) // 2


class Tied(NamedTuple):
    """One covariance for all components, `Sigma = L L'`.

    Attributes:
        scale_tril: Lower-triangular `L`, shape (d, d).
    """

    scale_tril: Float[Array, "d d"]

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        """Squared Mahalanobis distances `||L^{-1} (x_i - mu_k)||^2`, a function of the points."""
        whitening = _inverse_tril(self.scale_tril[None])[0]
        centres = matmul(means, whitening.T)
        return lambda xt: _squared_differences(matmul(whitening, xt), centres)

    def scatter(
        self,
        r: Float[Array, "k n"],
        xt: Float[Array, "d n"],
        means: Float[Array, "k d"],
        first: Float[Array, "k d"],
    ) -> Float[Array, "d d"]:
        """Scatter about the means, summed over components."""
        residual = r.sum(0)[None] * xt - matmul(means.T, r)
        return matmul(residual, xt.T) - matmul(first.T, means)

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

    def half_log_det(self, d: int) -> Float[Array, "1"]:  # noqa: ARG002
        """Half the log-determinant of the covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril)).sum(keepdims=True)

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:
        """The covariance matrices, all the same."""
        return jnp.broadcast_to(matmul(self.scale_tril, self.scale_tril.T), (k, d, d))

    def keep(self, alive: Bool[Array, "k"], old: Tied) -> Tied:  # noqa: ARG002
        """This structure: the components alive share it."""
        return self

    def n_parameters(self, k: int, d: int) -> int:  # noqa: ARG002
        """Number of free covariance parameters."""
        return d * (d + 1) // 2


class Diagonal(NamedTuple):
    """One variance a component and feature.

    Attributes:
        scale: Standard deviations, shape (k, d).
    """

    scale: Float[Array, "k d"]

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        """Squared Mahalanobis distances `sum_j (x_ij - mu_kj)^2 / s_kj^2`, a function of the points.

        Where no mean is far from the origin in units of its scale, two matrix products do it;
        elsewhere the expanded square would cancel, and differences are squared one by one.
        """
        precision = self.scale**-2.0
        coefficients = jnp.concatenate([precision, -2 * precision * means], axis=1)
        constant = (means * means * precision).sum(1)[:, None]

        def fast(xt):
            squares = matmul(coefficients, jnp.concatenate([xt * xt, xt])) + constant
            return jnp.maximum(squares, 0)

        def direct(xt):
            return _squared_differences(xt, means, self.scale)

        return lambda xt: lax.cond(self._far(means), direct, fast, xt)

    def scatter(
        self,
        r: Float[Array, "k n"],
        xt: Float[Array, "d n"],
        means: Float[Array, "k d"],
        first: Float[Array, "k d"],
    ) -> Float[Array, "k d"]:
        """Squares about the means, `sum_i r_ik (x_ij - mu_kj)^2`."""

        def fast(r, xt):
            squares = matmul(r, (xt * xt).T)
            return jnp.maximum(squares - means * (2 * first + r.sum(1)[:, None] * means), 0)

        def direct(r, xt):
            def one(component):
                weights, mean = component
                return (weights[None] * (xt - mean[:, None]) ** 2).sum(1)

            return lax.map(one, (r, means))

        return lax.cond(self._far(means), direct, fast, r, xt)

    def _far(self, means):
        # The expanded square loses about eps * |mu|^2 / s^2: tolerate a thousandth of a nat.
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

    def half_log_det(self, d: int) -> Float[Array, "k"]:  # noqa: ARG002
        """Half the log-determinant of each covariance."""
        return jnp.log(self.scale).sum(1)

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:  # noqa: ARG002
        """The covariance matrices."""
        return (self.scale**2)[:, :, None] * jnp.eye(d, dtype=self.scale.dtype)[None]

    def keep(self, alive: Bool[Array, "k"], old: Diagonal) -> Diagonal:
        """This structure for the components alive, the old one for the others."""
        return Diagonal(jnp.where(alive[:, None], self.scale, old.scale))

    def n_parameters(self, k: int, d: int) -> int:
        """Number of free covariance parameters of `k` components."""
        return k * d


class Spherical(NamedTuple):
    """One variance a component.

    Attributes:
        scale: Standard deviations, shape (k,).
    """

    scale: Float[Array, "k"]

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        """Squared Mahalanobis distances `||x_i - mu_k||^2 / s_k^2`, a function of the points."""
        return lambda xt: _squared_differences(xt, means) / (self.scale**2)[:, None]

    def scatter(
        self,
        r: Float[Array, "k n"],
        xt: Float[Array, "d n"],
        means: Float[Array, "k d"],
        first: Float[Array, "k d"],
    ) -> Float[Array, "k"]:
        """Squares about the means, `sum_i r_ik ||x_i - mu_k||^2`, over all features."""
        return (r * _squared_differences(xt, means)).sum(1)

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

    def half_log_det(self, d: int) -> Float[Array, "k"]:
        """Half the log-determinant of each covariance."""
        return d * jnp.log(self.scale)

    def dense(self, k: int, d: int) -> Float[Array, "k d d"]:  # noqa: ARG002
        """The covariance matrices."""
        return (self.scale**2)[:, None, None] * jnp.eye(d, dtype=self.scale.dtype)[None]

    def keep(self, alive: Bool[Array, "k"], old: Spherical) -> Spherical:
        """This structure for the components alive, the old one for the others."""
        return Spherical(jnp.where(alive, self.scale, old.scale))

    def n_parameters(self, k: int, d: int) -> int:  # noqa: ARG002
        """Number of free covariance parameters of `k` components."""
        return k


Covariance: TypeAlias = Full | Tied | Diagonal | Spherical
NAMES = ("full", "tied", "diagonal", "spherical")


def isotropic(name: str, variance: Float[Array, ""], k: int, d: int) -> Covariance:
    """The structure called `name` with covariance `variance * I` in every component."""
    scale = jnp.sqrt(variance)
    eye = scale * jnp.eye(d, dtype=scale.dtype)
    return {
        "full": lambda: Full(jnp.tile(eye, (k, 1, 1))),
        "tied": lambda: Tied(eye),
        "diagonal": lambda: Diagonal(jnp.full((k, d), scale)),
        "spherical": lambda: Spherical(jnp.full((k,), scale)),
    }[name]()


def _squared_differences(xt, means, scale=None):
    """`sum_j ((x_ij - mu_kj) / s_kj)^2`, one component at a time: (k, n), without a (k, d, n)."""
    inverse = jnp.ones_like(means) if scale is None else 1 / scale

    def one(component):
        mean, factor = component
        return (((xt - mean[:, None]) * factor[:, None]) ** 2).sum(0)

    return lax.map(one, (means, inverse))


def _inverse_tril(factors):
    """Inverses of lower-triangular factors: they whiten, `L^{-1} (x - mu)`, in one product."""
    eye = jnp.broadcast_to(jnp.eye(factors.shape[-1], dtype=factors.dtype), factors.shape)
    return solve_triangular(factors, eye)


def _factor(covariance, reg_covar):
    symmetric = 0.5 * (covariance + covariance.swapaxes(1, 2))
    eye = jnp.eye(covariance.shape[-1], dtype=covariance.dtype)
    return safe_cholesky(symmetric + reg_covar * eye[None])
