"""Why L1 gives zeros: the corners of its ball, the shrinkage it does, and a coefficient path.

The unit balls of four norms; the least-squares optimum constrained to an L1 and to an L2 ball, the
first on a corner; what either penalty does to a single coefficient; and the codes of a regression
along the whole path of the penalty, which enter one after the other, beside those of ridge
regression, which are never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

from experiments import data
from experiments.report import Report
from unsup_jax.core.linalg import matmul
from unsup_jax.sparse import lars, lasso, prox

L1, L2, LOSS = "tab:blue", "tab:orange", "0.55"
NORMS = (0.5, 1.0, 2.0, np.inf)
# Two correlated atoms, as rows, and the codes of their least-squares fit.
ATOMS = jnp.asarray([[1.0, 0.0], [0.45, 0.8]])
BEST = jnp.asarray([1.6, 0.5])


@dataclass(frozen=True)
class Config:
    """Settings."""

    n_targets: int = 2000
    """Random problems of which the share with a zero is counted."""
    seed: int = 0
    """Seed of the random problems."""
    quick: bool = False
    """Fewer random problems."""


def run(config: Config, report: Report) -> None:
    """Draw the balls, the two optima, the shrinkage and the path."""
    fig, axes = plt.subplots(2, 3, figsize=(14, 9), layout="constrained")
    _draw_balls(axes[0, 0])
    _draw_optimum(axes[0, 1], 1)
    _draw_optimum(axes[0, 2], 2)
    _draw_shrinkage(axes[1, 0])
    largest = _draw_paths(axes[1, 1], axes[1, 2])
    report.figure(
        fig,
        "geometry",
        "A level line of the loss meets the L1 ball on a corner, where a code is zero, and the L2 "
        "ball anywhere. Codes below the threshold are cut off by L1, only scaled by L2; so along "
        "the path of the penalty the ten coefficients of a regression leave zero one by one.",
    )
    n = 200 if config.quick else config.n_targets
    on_l1, on_l2 = _shares_of_zeros(config.seed, n)
    report.metrics(
        share_of_random_problems_with_a_zero_on_l1=on_l1,
        share_of_random_problems_with_a_zero_on_l2=on_l2,
        largest_violation_of_optimality_on_the_path=largest,
    )


def inside_l1(targets: jax.Array, radius: float = 1.0) -> jax.Array:
    """Return the `z` that minimise `||W (z - target)||` in the ball `||z||_1 <= radius`.

    Where the path of the penalised codes, whose L1 norm is linear between knots, has that norm.
    """
    path = lars.path(ATOMS, matmul(targets, ATOMS), n_steps=4)
    norms = jnp.abs(path.codes).sum(2)
    lam = jax.vmap(lambda norms, lams: jnp.interp(radius, norms, lams))(norms, path.lam)
    return lars.interpolate(path, lam)


def inside_l2(targets: jax.Array, radius: float = 1.0) -> jax.Array:
    """Return the same for `||z||_2 <= radius`: ridge regression, its penalty found by bisection."""
    gram = matmul(ATOMS, ATOMS.T)

    def one(target):
        def penalised(lam):
            return jnp.linalg.solve(gram + lam * jnp.eye(2), matmul(gram, target))

        def halve(_, bounds):
            low, high = bounds
            lam = (low + high) / 2
            outside = jnp.linalg.norm(penalised(lam)) > radius
            return jnp.where(outside, lam, low), jnp.where(outside, high, lam)

        bounds = jax.lax.fori_loop(0, 40, halve, (jnp.asarray(0.0), jnp.asarray(100.0)))
        return penalised(bounds[1])

    return jax.vmap(one)(targets)


def _shares_of_zeros(seed, n):
    """Of random problems with their optimum outside the balls, the shares with a zero code."""
    angles = jax.random.uniform(jax.random.key(seed), (n,), maxval=2 * jnp.pi)
    targets = 2.5 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
    found = inside_l1(targets), inside_l2(targets)
    return [(jnp.abs(codes) < 1e-5).any(1).mean() for codes in found]


def _draw_balls(ax):
    grid = np.linspace(-1.25, 1.25, 401)
    a, b = np.meshgrid(np.abs(grid), np.abs(grid))
    for p, colour in zip(NORMS, ("tab:red", L1, L2, "tab:green"), strict=True):
        norm = np.maximum(a, b) if np.isinf(p) else (a**p + b**p) ** (1 / p)
        ax.contour(grid, grid, norm, [1.0], colors=colour, linewidths=2)
        name = r"$\infty$" if np.isinf(p) else {0.5: "1/2", 1.0: "1", 2.0: "2"}[p]
        ax.plot([], [], color=colour, lw=2, label=f"p = {name}")
    ax.legend(loc="upper right", fontsize=9, ncols=2)
    _plane(ax, r"unit balls $\|z\|_p \leq 1$", 1.7)


def _draw_optimum(ax, order):
    colour, name = (L1, "L1") if order == 1 else (L2, "L2")
    best = (inside_l1 if order == 1 else inside_l2)(BEST[None])[0]
    grid = np.linspace(-1.4, 2.4, 301)
    z = np.stack(np.meshgrid(grid, grid), -1) - np.asarray(BEST)
    loss = ((z @ np.asarray(ATOMS)) ** 2).sum(-1)
    touching = float((((best - BEST) @ ATOMS) ** 2).sum())
    levels = np.array([0.08, 0.4, 1.0, 2.1, 4.0]) * touching
    ax.contour(grid, grid, loss, levels, colors=[LOSS], linewidths=[1, 1, 2, 1, 1])
    a, b = np.meshgrid(np.abs(grid), np.abs(grid))
    norm = a + b if order == 1 else np.hypot(a, b)
    ax.contourf(grid, grid, norm, [0, 1], colors=[colour], alpha=0.25)
    ax.contour(grid, grid, norm, [1], colors=[colour], linewidths=2)
    ax.plot(*BEST, "x", color="black", ms=8, mew=2)
    ax.annotate("least squares", BEST, (-30, 10), textcoords="offset points", fontsize=9)
    ax.plot(*best, "o", color="black", ms=8)
    ax.annotate(
        f"({best[0]:.2f}, {best[1]:.2f})", best, (8, -14), textcoords="offset points", fontsize=10
    )
    _plane(ax, f"optimum inside the {name} ball", None)
    ax.set(xlim=(-1.3, 2.4), ylim=(-1.3, 1.9))


def _plane(ax, title, limit):
    ax.axhline(0, color="0.8", lw=1, zorder=0)
    ax.axvline(0, color="0.8", lw=1, zorder=0)
    ax.set_aspect("equal")
    ax.set(title=title, xlabel="$z_1$", ylabel="$z_2$")
    if limit is not None:
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit))


def _draw_shrinkage(ax):
    v = jnp.linspace(-3, 3, 301)
    ax.plot(v, v, color="0.7", ls=":", label="no penalty: $v$")
    soft = prox.soft_threshold(v, 1.0)
    ax.plot(v, soft, color=L1, lw=2, label=r"L1, $\lambda = 1$: sign$(v) \max(|v| - 1, 0)$")
    ax.plot(v, v / 2, color=L2, lw=2, label=r"L2, $\lambda = 1$: $v / 2$")
    hard = jnp.where(jnp.abs(v) > jnp.sqrt(2), v, 0)
    ax.plot(v, hard, color="tab:red", lw=1, label=r"L0, $\lambda = 1$: $v$ if $|v| > \sqrt{2}$")
    ax.axvspan(-1, 1, color=L1, alpha=0.1, lw=0)
    ax.set(title="what a penalty makes of one coefficient", xlabel="$v$", ylabel="$z$")
    ax.legend(fontsize=9)


def _draw_paths(left, right):
    """The diabetes data: ten standardised measurements, from 442 patients, of a disease."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    components = jnp.asarray(data.check(bunch.data, "diabetes")).T
    target = jnp.asarray(data.check(bunch.target, "diabetes"))
    x = (target - target.mean())[None]
    path = lars.path(components, x, n_steps=20)
    lams = jnp.geomspace(path.lam[0, 0], 0.5, 200)
    codes = jax.vmap(lambda lam: lars.interpolate(path, lam[None])[0])(lams)
    order = jnp.abs(codes[-1]).argsort(descending=True)
    gram, against = matmul(components, components.T), matmul(components, x[0])
    prices = jnp.geomspace(100.0, 0.005, 200)
    ridge = jax.vmap(lambda lam: jnp.linalg.solve(gram + lam * jnp.eye(10), against))(prices)
    paths = (left, lams, codes, "L1", L1), (right, prices, ridge, "L2", L2)
    for ax, penalty, lines, name, colour in paths:
        for rank, j in enumerate(order.tolist()):
            label = bunch.feature_names[j] if ax is left else None
            ax.plot(penalty, lines[:, j], color=plt.cm.tab10(rank), lw=1.6, label=label)
        ax.set_xscale("log")
        ax.invert_xaxis()
        ax.axhline(0, color="0.8", lw=1, zorder=0)
        ax.set_title(f"coefficient path, {name}", color=colour)
        ax.set(xlabel=r"$\lambda$", ylabel="$z_j$")
    for knot in path.lam[0]:
        if knot > 0.5:
            left.axvline(float(knot), color="0.9", lw=1, zorder=0)
    left.legend(fontsize=8, ncols=2, title="measurement (grey: knots)", title_fontsize=8)
    check = jax.vmap(lambda lam, z: lasso.kkt_violation(components, x, z[None], lam)[0] / lam)
    return check(lams[1:], codes[1:]).max()
