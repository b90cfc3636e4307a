"""From a folder to one HTML file that needs nothing else: no network, no second file."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flower_dfl.errors import ConfigurationError
from flower_dfl.report.reading import read_run
from flower_dfl.report.run_page import run_page
from flower_dfl.report.sweep_page import sweep_page
from flower_dfl.writing import storing

__all__ = ["write_report"]

_DIGITS = 6


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run folder or a sweep folder.

    Args:
        folder: Folder of a run, or of a sweep.
        out: File to write; ``report.html`` in the folder by default.

    Returns:
        The absolute path of the file.

    Raises:
        ConfigurationError: The folder holds neither a run nor a sweep.
        DflError: A record is malformed, or the file cannot be written.
    """
    folder = folder.resolve()
    target = (out or folder / "report.html").resolve()
    if (folder / "config.toml").is_file():
        page = _page("run", *run_page(read_run(folder)))
    elif (folder / "sweep.json").is_file():
        page = _page("sweep", *sweep_page(folder, target.parent))
    else:
        raise ConfigurationError(
            f"expected a folder with a config.toml (a run) or a sweep.json (a sweep), got {folder}"
        )
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    return target


def _page(kind: str, words: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Fill a template; everything in ``words`` is escaped.

    The content security policy allows the one style sheet and the one script by their hashes, and nothing else.
    """
    style = _text("report.css")
    script = _text("charts.js") + _text(f"{kind}.js")
    environment = Environment(
        loader=PackageLoader("flower_dfl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{kind}.html.j2").render(
        words,
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - the same
        data=Markup(_inert(data)),  # noqa: S704 - holds no markup
        style_hash=_hash(style),
        script_hash=_hash(script),
        version=version("flower-dfl"),
    )


def _text(name: str) -> str:
    return files("flower_dfl.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _inert(data: Mapping[str, Any]) -> str:
    r"""Write JSON that cannot end the element it stands in, whatever texts it holds.

    >>> _inert({"name": "</script>", "value": 1 / 3})
    '{"name":"\\u003c/script\\u003e","value":0.333333}'
    """
    text = json.dumps(_short(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _short(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _short(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    return value
