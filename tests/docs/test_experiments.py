"""Every experiment's README has the form of Flower's baselines, and the index knows it."""

import re

import pytest

from tests.docs.markdown import ROOT, blocks, repository_files

EXPERIMENTS = ROOT / "experiments"
APPS = EXPERIMENTS / "apps"
FOLDERS = sorted(
    folder
    for folder in {folder for path in repository_files() for folder in path.parents}
    if folder.parent in {EXPERIMENTS, APPS} and folder != APPS
)
READMES = [pytest.param(f / "README.md", id=f.name) for f in FOLDERS if (f / "README.md").exists()]


def front_matter(text):
    """Return the keys and values between the two lines of dashes at the top."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return dict(line.split(": ", maxsplit=1) for line in found[1].splitlines()) if found else {}


@pytest.mark.parametrize("readme", READMES)
def test_an_experiment_says_what_it_is_before_its_title(readme):
    known = front_matter(readme.read_text(encoding="utf-8"))

    assert {"title", "labels", "dataset"} <= set(known) <= {"title", "url", "labels", "dataset"}
    assert known.get("url", "https://").startswith("https://")
    assert all(known[key].startswith("[") and known[key].endswith("]") for key in ("labels", "dataset"))


@pytest.mark.parametrize("readme", READMES)
def test_an_experiment_says_what_was_run_how_and_on_what(readme):
    text = readme.read_text(encoding="utf-8")

    assert re.search(r"^\*\*What is (implemented|measured)\.\*\*", text, re.MULTILINE)
    assert re.search(r"^\*\*Hardware( and run time)?\.\*\*", text, re.MULTILINE)
    assert ("url" not in front_matter(text)) or re.search(
        r"^\*\*How it differs from the paper\.\*\*", text, re.MULTILINE
    )
    assert re.search(r"^\| (hyper-parameter|key) \|", text, re.MULTILINE)
    assert any(block.language in {"bash", "sh"} for block in blocks(readme))


@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name) for folder in FOLDERS])
def test_the_index_leads_into_every_folder(folder):
    index = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")

    assert f"]({folder.relative_to(EXPERIMENTS)}/" in index
