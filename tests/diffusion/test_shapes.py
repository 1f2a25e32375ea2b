"""Whatever the noise and the sampler: data of any shape go in, and data of that shape and type come out."""

import pytest
import torch

import undiffuse as ud
from undiffuse.diffusion.noise import NOISES
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.rng import fold

TIMES = (20.0, 9.0, 1.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_keep_their_shape_and_type_through_every_noise_and_sampler(dtype):
    for family in NOISES.values():
        process = ud.Process(ud.NoiseSchedule.cosine(40), noise=family())
        for shape in ((2, 3), (3, 1, 4, 5)):
            x0 = fold(0).normal(shape).to(dtype)
            truth = process.corrupt(x0, 20, fold(1))
            assert (truth.eps.shape, truth.x_t.shape, truth.x_t.dtype) == (x0.shape, x0.shape, dtype)
            for name in SAMPLERS if "chain" in family.exact else SAMPLERS.keys() - {"edm"}:  # which goes back up
                sampler = SAMPLERS[name](0.0)
                for frame in ud.trajectory(process, towards_0(process), sampler, truth.x_t, TIMES, fold(2)):
                    assert (frame.x.shape, frame.x.dtype, frame.x0.dtype) == (x0.shape, dtype, dtype)


def towards_0(process):
    return lambda x_t, t: ud.Split.from_x0(x_t, 0.1 * x_t, *process.scales(t))
