"""Python imports this first of all where its folder is on PYTHONPATH: CUDA has to be pretended before PyTorch looks."""

from tests.pretend_cuda import device

device.install()
