"""Check a built site: every internal link, picture and anchor exists, and nothing is loaded from the network.

Command:   python docs/check_html.py docs/_build/html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what a browser loads with it."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        for name in ("href", "src"):
            url = values.get(name)
            if url is None or (tag == "link" and values.get("rel") == "canonical"):
                continue
            (self.loaded if (tag, name) in LOADED else self.links).append(url)


def faults(root: Path) -> list[str]:
    """One line per link that leads nowhere, and per file that would be loaded from the network."""
    pages = {path: Page(path.read_text()) for path in sorted(root.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(root)
        if where.parts[0] == "_modules":
            continue  # listings of source code, whose links back are Sphinx's own
        for url in page.links + page.loaded:
            parts = urlsplit(url)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if url in page.loaded:
                    found.append(f"{where}: loads {url}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{where}: {url} does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {url} has no such anchor")
    for path in sorted(root.rglob("*.css")):
        found += [
            f"{path.relative_to(root)}: loads {url}"
            for url in re.findall(r"url\(['\"]?(https?:[^)]*)", path.read_text())
        ]
    return found


def main() -> int:
    root = Path(sys.argv[1]).resolve()
    found = faults(root)
    print(
        "\n".join(found)
        or f"{len(list(root.rglob('*.html')))} pages: every link leads somewhere, nothing is loaded from the network"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
