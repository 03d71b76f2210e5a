"""Every way to train on the pretend CUDA device: a file of its own, so that it runs beside test_pretend_cuda.py."""

from tests.pretend_cuda.process import HERE, needs_the_device, pytest_there

pytestmark = needs_the_device


def test_every_way_to_train_waits_once_a_step_and_resumes_exactly() -> None:
    pytest_there(str(HERE / "ways.py"))
