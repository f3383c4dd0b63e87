"""MkDocs hooks: pages of the site that are files of the repository outside ``docs/``."""

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that people expect at the root of a repository."""
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links so that they hold on the site as well as in the repository.

    In the repository, a page in ``docs/`` links to ``../benchmarks/README.md``; on the site that page lies beside it.
    A link to a file that the site does not have, such as a script or a config, becomes its text.
    """
    source = PurePosixPath(page.file.src_uri)
    in_repository = source if page.file.src_uri in PAGES else "docs" / source

    def rewrite(link: re.Match[str]) -> str:
        target = (ROOT / in_repository.parent / link["path"]).resolve()
        if not target.is_relative_to(ROOT) or not target.exists():
            return link[0]  # MkDocs reports it
        relative = target.relative_to(ROOT).as_posix()
        on_site = "index.md" if relative == "README.md" else relative
        on_site = on_site if on_site in PAGES else on_site.removeprefix("docs/")
        if files.get_file_from_path(on_site) is None:
            return link["text"]
        up = "../" * (len(source.parts) - 1)
        return f"{link['image']}[{link['text']}]({up}{on_site}{link['anchor'] or ''})"

    return _LINK.sub(rewrite, markdown)
