"""One datum through the forward process and back, with every wrapper on."""

import numpy as np
import torch

import undiffuse as ud


def test_a_walk_through_the_library():
    process = ud.Process(ud.NoiseSchedule.cosine(1000))
    x0 = torch.zeros(4, 1, 8, 8)
    split = process.corrupt(x0, torch.tensor([1, 2, 3, 1000]), ud.rng.fold(0))
    assert process.reverse(split, np.array([1, 2, 3, 1000]), np.array([0, 1, 2, 999])).var.shape == (4, 1, 1, 1)
    denoiser = ud.Denoiser(lambda x, t, y: x, process, "v")
    for sampler in (ud.samplers.DDIM(0.3), ud.samplers.Ancestral()):
        for w in (1.0, 2.0):
            denoise = ud.clipped(ud.guided(ud.bind(denoiser, torch.zeros(4, dtype=torch.int64)), w, 10))
            rng = ud.rng.per_row(0, "sample", rows=range(4))
            x_T = process.prior((4, 1, 8, 8), rng)
            frames = list(ud.trajectory(process, denoise, sampler, x_T, ud.spacing(1000, 10), rng))
            assert [frame.t for frame in frames][-1] == 0
            assert frames[-1].x.isfinite().all()
