"""Fixtures of all tests."""

from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import settings

# --hypothesis-profile=long: for hours by hand, not for every change.
settings.register_profile("long", max_examples=25_000)


@pytest.fixture(scope="session")
def silero_path() -> Path:
    """The archive of the wheel silero-vad, which need not be importable."""
    try:
        distribution = metadata.distribution("silero-vad")
    except metadata.PackageNotFoundError:
        pytest.skip("no silero-vad: pip install --no-deps silero-vad")
    files = [file for file in distribution.files or [] if file.name == "silero_vad.jit"]
    assert files, "silero-vad has no silero_vad.jit any more"
    return Path(str(distribution.locate_file(files[0])))
