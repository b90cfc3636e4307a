"""What a failed run leaves behind besides its message: every traceback, in a file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["logged"]

_ENGINE_LOG = "flower.log"


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Send what this package logs, and the traceback of what fails, to ``run.log`` in a run folder.

    An error that passes gets a note that names the logs. Nothing is written where nothing is logged.
    """
    logger = logging.getLogger("flower_dfl")
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    propagated, logger.propagate = logger.propagate, False  # the terminal shows messages only
    try:
        yield
    except Exception as error:
        logger.exception("the run failed")
        logs = [folder / name for name in ("run.log", _ENGINE_LOG) if (folder / name).exists()]
        error.add_note(f"details: {' and '.join(map(str, logs))}")
        raise
    finally:
        logger.propagate = propagated
        logger.removeHandler(handler)
        handler.close()
