"""Writing a file whole or not at all."""

import os
import secrets
from pathlib import Path

from intact.core.errors import OutputPathError

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it.

    Raises OutputPathError if that fails; `path` is then as it was and nothing else remains.
    """
    try:
        if path.is_dir():
            raise OutputPathError(f"'{path}' is a directory; give the name of a file")
        # Renaming over /dev/null, as a user with the right to do so might, would replace it.
        if path.exists() and not path.is_file():
            raise OutputPathError(f"'{path}' is not a regular file; give another name")
        # A short name of its own: a prefix would make a long but valid name too long.
        temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
        try:
            # Unlike tempfile's, such a file has the permissions that the umask gives.
            with open(temporary, "xb") as file:
                file.write(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputPathError(
            f"'{path}' cannot be written: {reason}; choose a directory that exists and that "
            "you may write to"
        ) from None
