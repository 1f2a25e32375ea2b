"""Solvers as their papers print them, on float64 numbers and alpha_bar alone: what ours are compared with.

Each takes x, the falling times, ab(t) and D(x, t) = E[x0 | x_t], and gives x after every step.
"""

from itertools import pairwise

import numpy as np
from scipy.integrate import quad

LEAST = -5.1  # of lambda: below it the solvers for eps are DDIM


def order_of(order: int, h: float, seen) -> int:
    """Two guesses at most (not the papers') for a step over twice as long as the one before it."""
    k = min(order, len(seen))
    return min(k, 2) if k > 1 and h > 2 * (seen[-1][0] - seen[-2][0]) else k


def scales(ab: float) -> tuple[float, float]:
    return ab**0.5, (1 - ab) ** 0.5


def lam(ab: float) -> float:
    return float("inf") if ab == 1 else 0.5 * np.log(ab / (1 - ab))


def eps_of(x, x0, ab: float):
    a, sigma = scales(ab)
    return (x - a * x0) / sigma


def phi(x, eps, ab_t: float, ab_s: float):
    """Liu et al. 2022, eq. 11."""
    below = ab_t**0.5 * (((1 - ab_s) * ab_t) ** 0.5 + ((1 - ab_t) * ab_s) ** 0.5)
    return (ab_s / ab_t) ** 0.5 * x - (ab_s - ab_t) / below * eps


def dpmpp(order):
    """Lu et al. 2022 (DPM-Solver++), algorithm 2 and with one more difference, whose coefficient is doubled."""

    def run(x, times, ab, D, z=None):
        seen, out = [], []
        for t, s in pairwise(times):
            (a_s, sigma_s), (_, sigma_t) = scales(ab(s)), scales(ab(t))
            h = lam(ab(s)) - lam(ab(t))
            seen.append((lam(ab(t)), D(x, t)))
            k, m0 = order_of(order, h, seen), seen[-1][1]
            if s == 0:
                x = m0
                out.append(x)
                continue
            x = sigma_s / sigma_t * x - a_s * np.expm1(-h) * m0
            if k > 1:
                r0 = (seen[-1][0] - seen[-2][0]) / h
                d0 = (m0 - seen[-2][1]) / r0
            if k == 2:  # and an extrapolation by at most one step before
                d0 = (m0 - seen[-2][1]) / max(r0, 0.5)
                x = x - 0.5 * a_s * np.expm1(-h) * d0
            if k == 3:
                r1 = (seen[-2][0] - seen[-3][0]) / h
                d1 = (seen[-2][1] - seen[-3][1]) / r1
                first, second = d0 + r0 / (r0 + r1) * (d0 - d1), (d0 - d1) / (r0 + r1)
                x = x + a_s * (np.expm1(-h) / h + 1) * first - 2 * a_s * ((np.expm1(-h) + h) / h**2 - 0.5) * second
            out.append(x)
        return out

    return run


def dpmpp_sde(x, times, ab, D, z):
    """Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++1 and the second-order multistep form of its appendix."""
    out, seen = [], []
    for t, s in pairwise(times):
        m0 = D(x, t)
        if s == 0:
            out.append(m0)
            break
        (a_s, sigma_s), (_, sigma_t) = scales(ab(s)), scales(ab(t))
        h = lam(ab(s)) - lam(ab(t))
        x = (
            sigma_s / sigma_t * np.exp(-h) * x
            - a_s * np.expm1(-2 * h) * m0
            + sigma_s * (-np.expm1(-2 * h)) ** 0.5 * z()
        )
        seen.append((lam(ab(t)), m0))
        if len(seen) > 1:
            r0 = max((seen[-1][0] - seen[-2][0]) / h, 0.5)
            x = x - 0.5 * a_s * np.expm1(-2 * h) * (m0 - seen[-2][1]) / r0
        out.append(x)
    return out


def unipc(order):
    """Zhao et al. 2023, algorithms 1 to 3 with B(h) = exp(-h) - 1: weights from the linear system R rho = b."""

    def solved(nodes, h, count):
        hh, b, k, factorial = -h, [], np.expm1(-h) / -h - 1, 1
        for i in range(1, count + 1):
            b.append(k * factorial / np.expm1(hh))
            factorial *= i + 1
            k = k / hh - 1 / factorial
        R = np.array([[r**power for r in nodes] for power in range(count)])
        return np.linalg.solve(R, np.array(b))

    def run(x, times, ab, D, z=None):
        seen, out, began = [], [], None
        for t, s in pairwise(times):
            new = D(x, t)
            if began is not None:
                x0, ab0, k = began
                h = lam(ab(t)) - lam(ab0)
                past, m0 = seen[-k:-1][::-1], seen[-1][1]
                nodes = [(node - lam(ab0)) / h for node, _ in past] + [1.0]
                rho = [0.5] if k == 1 else solved(nodes, h, k)
                differences = [(m - m0) / r for (_, m), r in zip(past, nodes, strict=False)] + [new - m0]
                (a_t, sigma_t), (_, sigma_0) = scales(ab(t)), scales(ab0)
                x = sigma_t / sigma_0 * x0 - a_t * np.expm1(-h) * (
                    m0 + sum(w * d for w, d in zip(rho, differences, strict=True))
                )
            seen.append((lam(ab(t)), new))
            k = min(order, len(seen))
            began = (x, ab(t), k)
            if s == 0:
                out.append(new + (x - x))
                break
            h = lam(ab(s)) - lam(ab(t))
            k = order_of(order, h, seen)
            past = seen[-k:-1][::-1]
            nodes = [(node - lam(ab(t))) / h for node, _ in past]
            if k == 2:
                nodes = [min(nodes[0], -0.5)]
            rho = [0.5] if k == 2 else solved(nodes, h, k - 1) if k > 2 else []
            differences = [(m - new) / r for (_, m), r in zip(past, nodes, strict=True)]
            (a_s, sigma_s), (_, sigma_t) = scales(ab(s)), scales(ab(t))
            x = sigma_s / sigma_t * x - a_s * np.expm1(-h) * (
                new + sum(w * d for w, d in zip(rho, differences, strict=True))
            )
            out.append(x)
        return out

    return run


def deis(q):
    """Zhang & Chen 2023, eq. 14 and 15, the polynomial in lambda: adaptive quadrature of each of Lagrange's."""

    def run(x, times, ab, D, z=None):
        seen, out = [], []
        for t, s in pairwise(times):
            eps = eps_of(x, D(x, t), ab(t))
            if lam(ab(t)) < LEAST or s == 0:
                x = phi(x, eps, ab(t), ab(s))
                out.append(x)
                continue
            seen = [(lam(ab(t)), eps), *seen][: q + 1]
            used = seen[: order_of(q + 1, lam(ab(s)) - lam(ab(t)), seen[::-1])]
            nodes = [node for node, _ in used]
            y = x / ab(t) ** 0.5
            for j, (node, value) in enumerate(used):

                def density(u, j=j, node=node, nodes=nodes):
                    return -np.exp(-u) * np.prod([(u - b) / (node - b) for i, b in enumerate(nodes) if i != j])

                y = y + quad(density, lam(ab(t)), lam(ab(s)), epsabs=1e-13, epsrel=1e-13)[0] * value
            x = ab(s) ** 0.5 * y
            out.append(x)
        return out

    return run


def pndm(x, times, ab, D, z=None):
    """Liu et al. 2022, eq. 12 and 13."""
    seen, out = [], []
    for t, s in pairwise(times):
        e = eps_of(x, D(x, t), ab(t))
        if lam(ab(t)) < LEAST:
            x = phi(x, e, ab(t), ab(s))
            out.append(x)
            continue
        seen.append(e)
        if len(seen) >= 4:
            e = (55 * seen[-1] - 59 * seen[-2] + 37 * seen[-3] - 9 * seen[-4]) / 24
        elif s > 0:
            middle = (t + s) / 2
            x1 = phi(x, e, ab(t), ab(middle))
            e2 = eps_of(x1, D(x1, middle), ab(middle))
            x2 = phi(x, e2, ab(t), ab(middle))
            e3 = eps_of(x2, D(x2, middle), ab(middle))
            x3 = phi(x, e3, ab(t), ab(s))
            e = (e + 2 * e2 + 2 * e3 + eps_of(x3, D(x3, s), ab(s))) / 6
        x = phi(x, e, ab(t), ab(s))
        out.append(x)
    return out


def karras(churn, correct=True):
    """Karras et al. 2022, algorithms 1 and 2, on y = x / signal and sigma = rho: d = (y - D) / rho."""

    def run(x, times, ab, D, z=None):
        table = ab.schedule
        out = []
        for t, s in pairwise(times):
            if churn and s > 0 and lam(ab(t)) > LEAST:
                gamma = min(np.exp(churn * (lam(ab(s)) - lam(ab(t)))) - 1, 2**0.5 - 1)
                rho = np.exp(-lam(ab(t)))
                higher = min(float(table.time_of(-np.log((1 + gamma) * rho))), float(table.T))
                rho_higher = np.exp(-lam(ab(higher)))
                y = x / ab(t) ** 0.5 + max(rho_higher**2 - rho**2, 0) ** 0.5 * z()
                t, x = higher, y * ab(higher) ** 0.5
            (a_t, sigma_t), (a_s, sigma_s) = scales(ab(t)), scales(ab(s))
            rho_t, rho_s, y = sigma_t / a_t, sigma_s / a_s, x / a_t
            d = (y - D(x, t)) / rho_t
            y_s = y + (rho_s - rho_t) * d
            if correct and s > 0 and lam(ab(t)) >= LEAST:
                d_s = (y_s - D(a_s * y_s, s)) / rho_s
                y_s = y + (rho_s - rho_t) * (d + d_s) / 2
            x = a_s * y_s
            out.append(x)
        return out

    return run
