"""The documentation agrees with the code: generated pages, links, batch scripts."""

from __future__ import annotations

import doctest
import re
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

from docs import check_site, generate, import_graph
from tests.unit.test_layout import MAY_IMPORT

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]
REPOSITORY = "https://github.com/raycluster/raycluster"


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_generated_pages(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == generate.page(name), "run: python docs/generate.py"


@pytest.mark.parametrize("module", [check_site, generate, import_graph])
def test_examples(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)


def test_documented_packages() -> None:
    assert set(generate.PACKAGES) == set(MAY_IMPORT)
    table = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in MAY_IMPORT if f"| raycluster_cli/{name} |" not in table] == []


def test_code_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    named = re.findall(r"`((?:raycluster_cli|tests|docs)/[\w/.]+)`", text)
    named += [f"raycluster_cli/{path}" for path in re.findall(r"`((?:cli|policy|supervisor)/\w+\.py)`", text)]
    assert len(named) > 15
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        in_repository = re.match(rf"{REPOSITORY}/(?:blob|tree)/main/(.+)", target)
        if in_repository:
            assert (ROOT / in_repository[1]).exists(), f"{page.name}: {target}"
        elif "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_of_the_readme_are_absolute() -> None:
    """PyPI shows the README without the repository around it."""
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [target for target in targets if not target.startswith("https://")] == []
    for path in re.findall(r"https://raw\.githubusercontent\.com/raycluster/raycluster/main/([^)\s]+)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", ["docs/index.md", "docs/commands.md"])
def test_every_command_is_documented(path: str) -> None:
    from raycluster_cli.cli.app import app

    text = (ROOT / path).read_text()
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        heading = f"`raycluster {name}" if path == "docs/index.md" else f"## raycluster {name}\n"
        assert command.hidden or heading in text, name


def test_every_page_is_in_the_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    named = set(re.findall(r"[\w/-]+\.md", config))
    assert {page for page in pages - named if not page.startswith("decisions/0")} == set()
    assert named <= pages


def test_the_batch_scripts_can_be_read_from_the_package() -> None:
    found = {one.name: one.read_text() for one in files("raycluster_cli.ops").joinpath("scripts").iterdir()}
    assert found == {path.name: path.read_text() for path in (ROOT / "slurm").glob("*.sbatch")}


def test_site_with_mistakes(tmp_path: Path) -> None:
    (tmp_path / "python-api").mkdir()
    (tmp_path / "python-api/index.html").write_text(
        '<h2 id="raycluster_cli.run">run</h2><a href="../#gone">x</a>'
    )
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="https://cdn.example/a.css"><script src="a.js"></script><p id="top">'
        '<a href="python-api/#raycluster_cli.run">x</a><a href="/base/python-api/">y</a><a href="#top">z</a>'
    )
    (tmp_path / "a.css").write_text("@font-face {src: url(https://fonts.example/f.woff2)}")
    assert sorted(check_site.problems(tmp_path, "/base/", ["run", "stop"])) == [
        "a.css loads https://fonts.example/f.woff2",
        "index.html links to a.js, which does not exist",
        "index.html loads https://cdn.example/a.css",
        "python-api lacks raycluster_cli.stop",
        "python-api/index.html links to ../#gone, which has no such anchor",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_merge_was_left_half_done(page: Path) -> None:
    assert re.findall(r"^(?:<<<<<<<|>>>>>>>) .*$", page.read_text(), re.MULTILINE) == []
