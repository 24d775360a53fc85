# Written by the build: cpp/cmake/_build.py.in.
VERSION: str
TORCH_VERSION: str
