"""Which noise a reverse step should add, on scalar data whose exact denoiser is known: five atoms.

Run: python benchmarks/reverse_noise.py

Wasserstein distance of 100,000 samples to the atoms' own law, for DDIM (eta 0) and for ancestral sampling (small
variance) that draws eps_s given the guessed eps in different ways. About 0.002 is chance.
"""

from dataclasses import dataclass

import numpy as np
import torch

from undiffuse import NoiseSchedule, Process, Split, rng, samplers, spacing, trajectory
from undiffuse.diffusion.noise import Gamma, Gaussian, Laplace, Noise

ATOMS, WEIGHTS = torch.tensor([-0.8, -0.3, 0.0, 0.5, 0.9]).double(), np.array([0.1, 0.3, 0.2, 0.15, 0.25])
COUNT, STEPS = 100_000, (10, 50, 250)
SCALE = 0.5**0.5  # of the Laplace law of unit variance


class Moments(Laplace):
    """Gaussian noise of the right variance."""

    def renewal(self, shape, kept, snr, draws):
        return draws.normal(shape)


class Whole(Laplace):
    """A whole Laplace number of the right variance, not the chain's."""

    def renewal(self, shape, kept, snr, draws):
        return self.draw(shape, snr, draws)


class Posterior(Laplace):
    """Exactly q(eps_s | eps_t) of the chain, as if the guessed eps were the true one."""

    def bridge(self, eps, kept, snr, draws):
        share, e = float(kept), eps.double().numpy()
        u = [draws.uniform(eps.shape).numpy() for _ in range(4)]
        stayed = share * np.exp(
            (np.abs(e) - np.abs(e) / share) / SCALE
        )  # of the density of eps_t, what eps_s / kept has
        k = np.abs(e) / share
        low, high = 1 / (1 + share), np.exp(-(1 - share) * k / SCALE) / (1 + share)
        middle = -np.expm1(-(1 - share) * k / SCALE) / (1 - share)
        beyond = -np.log1p(-u[1]) * SCALE / (1 + share)
        inside = -np.log1p(u[2] * np.expm1(-(1 - share) * k / SCALE)) * SCALE / (1 - share)
        place = u[3] * (low + middle + high)
        y = np.where(place < low, -beyond, np.where(place < low + middle, inside, k + beyond))
        return torch.from_numpy(np.where(u[0] < stayed, e / share, np.copysign(1, e) * y)).to(eps)


@dataclass(frozen=True)
class GammaMoments(Gamma):
    """The chain's own noise added to the guessed eps, in place of its posterior."""

    def bridge(self, eps, kept, snr, draws):
        return Noise.bridge(self, eps, kept, snr, draws)


def exact(process: Process):
    """E[x0 | x_t] of the atoms."""

    def denoise(x_t, t):
        signal, sigma = (float(scale) for scale in process.scales(t))
        eps = (x_t.double() - signal * ATOMS) / sigma
        density = process.noise.density(eps.numpy(), float(process.schedule.snr(t))) * WEIGHTS
        nearest = (eps.abs() == eps.abs().min(1, keepdim=True).values).double().numpy()
        density = np.where(density.sum(1, keepdims=True) > 0, density, nearest)
        x0 = torch.from_numpy(density / density.sum(1, keepdims=True)) @ ATOMS
        return Split.from_x0(x_t, x0[:, None].to(x_t), np.float64(signal), np.float64(sigma))

    return denoise


def distance(noise: Noise, sampler, steps: int) -> float:
    process = Process(NoiseSchedule.cosine(1000), noise)
    x_T = process.prior((COUNT, 1), rng.fold(0, "prior"))
    *_, last = trajectory(process, exact(process), sampler, x_T, spacing(1000, steps), rng.fold(0, "steps"))
    counts = np.diff(np.round(np.append(0, WEIGHTS.cumsum()) * COUNT).astype(int))
    return float(np.abs(np.sort(last.x.double().numpy().ravel()) - np.repeat(ATOMS.numpy(), counts)).mean())


def main() -> None:
    rows = {
        "gaussian, DDIM": (Gaussian(), samplers.DDIM()),
        "gaussian, ancestral": (Gaussian(), samplers.Ancestral()),
        "laplace, DDIM": (Laplace(), samplers.DDIM()),
        "laplace, ancestral, the chain's noise (ours)": (Laplace(), samplers.Ancestral()),
        "laplace, ancestral, Gaussian moments": (Moments(), samplers.Ancestral()),
        "laplace, ancestral, a whole Laplace number": (Whole(), samplers.Ancestral()),
        "laplace, ancestral, the posterior at the guess": (Posterior(), samplers.Ancestral()),
        "gamma (theta = 0.001), DDIM": (Gamma(), samplers.DDIM()),
        "gamma (theta = 0.001), ancestral, the posterior at the guess (ours)": (Gamma(), samplers.Ancestral()),
        "gamma (theta = 0.01), DDIM": (Gamma(0.01), samplers.DDIM()),
        "gamma (theta = 0.01), ancestral, the posterior at the guess (ours)": (Gamma(0.01), samplers.Ancestral()),
        "gamma (theta = 0.01), ancestral, the chain's noise": (GammaMoments(0.01), samplers.Ancestral()),
        "gamma (theta = 0.1), ancestral, the posterior at the guess (ours)": (Gamma(0.1), samplers.Ancestral()),
    }
    print("| noise and sampler | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |")
    print("|---" * (1 + len(STEPS)) + "|")
    for name, (noise, sampler) in rows.items():
        print(
            f"| {name} | " + " | ".join(f"{distance(noise, sampler, steps):.4f}" for steps in STEPS) + " |", flush=True
        )


if __name__ == "__main__":
    main()
