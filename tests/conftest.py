"""What all tests share: where real models and data lie, where they are present.

INTACT_NATIVE names a folder that holds another build of the native part, such as one with
sanitizers (`make sanitize`), to be tested instead of the installed one.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

if _folder := os.environ.get("INTACT_NATIVE"):
    _library = next(Path(_folder).glob("_native*.so"))
    _spec = importlib.util.spec_from_file_location("intact._native", _library)
    assert _spec is not None and _spec.loader is not None
    sys.modules["intact._native"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["intact._native"])

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
