"""What only CUDA shows, on a CUDA device made of the processor: see pretend.cpp."""

from tests.pretend_cuda.process import HERE, needs_the_device, pytest_there

KILLED = "tests/runs/test_resume.py::test_a_run_killed_again_and_again_ends_in_the_same_weights[int8-quanto]"

pytestmark = needs_the_device


def test_the_tests_for_a_gpu_pass() -> None:
    """All but compiling, as inductor writes triton's code for CUDA, and but what only an H100 has."""
    pytest_there("tests/gpu", "-k", "not inductor and not hopper")


def test_a_run_that_is_killed_resumes_exactly() -> None:
    """The killed processes have the device too: on the processor they would train to other numbers."""
    pytest_there(KILLED)


def test_steps_at_real_shapes_need_what_was_estimated() -> None:
    pytest_there(str(HERE / "peaks.py"))
