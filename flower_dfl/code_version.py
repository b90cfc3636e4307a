"""Which code runs: the package's version and a hash of its files.

Workers may import another copy of the package than the server (another checkout first on the path). They compare this
before the first round.
"""

import functools
import hashlib
from pathlib import Path

import flower_dfl

__all__ = ["code_version"]


@functools.cache
def code_version() -> str:
    """Return the version and twelve digits of a hash over all Python files of the package, links followed."""
    root = Path(flower_dfl.__file__).parent
    folders = [root, *(folder for folder in sorted(root.iterdir()) if folder.is_dir())]
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")) if folder != root else sorted(root.glob("*.py")):
            digest.update(f"{folder.name}/{path.name}".encode())
            digest.update(path.read_bytes())
    return f"{flower_dfl.__version__}+{digest.hexdigest()[:12]}"
