"""The mathematics of diffusion, without networks.

`schedule` says how much signal and noise there is at a timestep, `objective` what the network learns there,
`timesteps` which ones training and sampling visit, `guidance` how two predictions become one, `samplers` how noise
becomes data.
"""
