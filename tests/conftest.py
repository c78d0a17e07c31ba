"""What all tests share: where real models and data lie, where they are present."""

import sys
from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[2] / "shared"
_TOOLS = _SHARED / "tools"
if _TOOLS.is_dir():
    # torchvision's wheel does not import beside a CPU build of PyTorch without this helper.
    sys.path.insert(0, str(_TOOLS))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the repository."""
    if not _SHARED.is_dir():
        pytest.skip("the folder of real models and data ('../shared') is not beside the repository")
    return _SHARED
