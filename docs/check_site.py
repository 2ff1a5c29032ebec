"""Checks the built site: python docs/check_site.py site

Each link to a page, an image or an anchor of the site leads somewhere; no page loads a script, a style, a
font or a picture from another server; the page of the Python API has every public name. Prints what is wrong
and exits with 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: What a browser loads by itself when it shows a page: element and attribute.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("object", "data")}

#: A <link> of these kinds makes the browser load its target.
LOADING_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload"}


class Page(HTMLParser):
    """The anchors and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors.update(filter(None, (values.get("id"), values.get("name") if tag == "a" else None)))
        for name, value in values.items():
            loads = (tag, name) in LOADED or (
                (tag, name) == ("link", "href") and values.get("rel") in LOADING_LINKS
            )
            if loads:
                self.loaded.append(value)
            if loads or (tag, name) == ("a", "href"):
                self.links.append(value)


def problems(site: Path, base: str, public: list[str]) -> Iterator[str]:
    """What is wrong with a site that lies in ``site`` and will be served below the path ``base``."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (f"{name} loads {link}" for link in page.loaded if is_elsewhere(link))
        for link in page.links:
            if is_elsewhere(link) or urlsplit(link).scheme:
                continue
            target, anchor = resolve(link, path, site, base)
            if not target.exists():
                yield f"{name} links to {link}, which does not exist"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{name} links to {link}, which has no such anchor"
    for style in sorted(site.rglob("*.css")):
        yield from (
            f"{style.relative_to(site)} loads {link}"
            for link in re.findall(r"(?:url\(|@import\s*)[\"']?([^\"')\s]+)", style.read_text())
            if is_elsewhere(link)
        )
    reference = pages.get(site / "python-api" / "index.html")
    for one in public:
        if reference is None or f"raycluster_cli.{one}" not in reference.anchors:
            yield f"python-api lacks raycluster_cli.{one}"


def is_elsewhere(link: str) -> bool:
    """Whether a link leads to another server.

    >>> [is_elsewhere(link) for link in ("https://example.org/a.js", "//cdn/a.css", "../a.css", "data:x")]
    [True, True, False, False]
    """
    return bool(urlsplit(link).netloc)


def resolve(link: str, page: Path, site: Path, base: str) -> tuple[Path, str]:
    """The file that a link of a page leads to, and the anchor in it."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    if path.startswith("/"):
        target = site / path.removeprefix(base).lstrip("/")
    else:
        target = page.parent / path if path else page
    target = Path(target.resolve())
    return (target / "index.html" if target.is_dir() else target), unquote(parts.fragment)


def main() -> int:
    import raycluster_cli

    site = Path(sys.argv[1]).resolve()
    found = sorted(set(problems(site, "/raycluster/", raycluster_cli.__all__)))
    for one in found:
        print(one, file=sys.stderr)
    if not found:
        print(f"{site.name}: {sum(1 for _ in site.rglob('*.html'))} pages, all links lead somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
