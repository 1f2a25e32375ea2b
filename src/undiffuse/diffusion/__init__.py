"""The theory, to be read from top to bottom: schedule, noise, split, process, losses, denoiser, guidance, samplers.

`undiffuse.shapes` says what Data and Times are; `undiffuse.train.trainer` is Algorithm 1 of Ho et al. 2020. The learned
variance (`Split.var_fraction`) is explained at `Process.reverse`.
"""
