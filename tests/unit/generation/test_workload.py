"""Workload of a request for the memory planner."""

from cogvideox.generation.request.builder import complete_request
from cogvideox.generation.workload import default_workload, workload_of
from cogvideox.pretrained.model_spec import read_spec


def test_workload_of_a_request():
    spec = read_spec("toybox")
    assert default_workload(spec) == workload_of(complete_request(spec, None, seed=0), spec)
    request = complete_request(spec, "a ball", num_frames=25, window=9, guidance_scale=1, seed=0)
    workload = workload_of(request, spec)
    assert (workload.window_frames, workload.num_frames, workload.batch_size, workload.num_prompts) == (9, 25, 1, 1)
    sequential = workload_of(complete_request(spec, "a ball", sequential_guidance=True, seed=0), spec)
    assert (sequential.batch_size, sequential.calls_per_step) == (1, 2)
