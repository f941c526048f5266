"""The mathematics of diffusion, without networks.

`schedule` is the noise schedule, `objective` the training target and loss, `timesteps` the timesteps of training and
sampling, `guidance` classifier-free guidance, and `samplers` the denoising loops.
"""
