"""What mkdocs does beyond its settings: files and links outside docs/, and GitHub's anchors.

The pages are written for GitHub. So a link may lead out of docs/, such as `../examples/`: on the
site it leads to the repository. A link to a file that does not exist is a warning, and a build with
`--strict` fails on warnings.
"""

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT: Final = Path(__file__).parents[2]

PLACEHOLDER: Final = "OWNER/peft_regress"
"""What the pages call the repository, since its home is not known to them."""
REPOSITORY: Final = os.environ.get("GITHUB_REPOSITORY") or PLACEHOLDER

OUTSIDE: Final = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site whose files are outside docs/."""

_BRANCH: Final = "main"
_log: Final = logging.getLogger("mkdocs.hooks.site")

_FENCE: Final = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_CODE_IN_TABLE: Final = re.compile(r"(?<=<td)[^<]*(?:<(?!/td)[^<]*)*(?=</td>)")
_LINK: Final = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set what follows from the repository, and make anchors as GitHub makes them."""
    config.repo_url = f"https://github.com/{REPOSITORY}"
    config.repo_name = REPOSITORY
    config.edit_uri = f"blob/{_BRANCH}/docs/"
    if "GITHUB_REPOSITORY" in os.environ:
        owner, _, name = REPOSITORY.partition("/")
        config.site_url = f"https://{owner.lower()}.github.io/{name}/"
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose files are outside docs/."""
    for page, source in OUTSIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files outside docs/ into links to the repository, and call it by its name."""
    source = OUTSIDE.get(page.file.src_uri)
    if page.is_homepage:
        # Not in the page, where GitHub would show it.
        page.meta["hide"] = ["navigation", "toc"]
    if source is not None:
        page.edit_url = f"{config.repo_url}/blob/{_BRANCH}/{source}"
    folder = posixpath.dirname(source or f"docs/{page.file.src_uri}")

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return _link_on_site(target, page, files) + (link[2] or "")

    # Every other part is code, which stays as it is.
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(turned, part) for part in parts[::2]]
    return "".join(parts).replace(PLACEHOLDER, REPOSITORY)


def on_page_content(html: str, **_: object) -> str:
    r"""Show `\|` in the code of a table as GitHub does: as `|`."""
    return _CODE_IN_TABLE.sub(lambda code: code[0].replace(r"\|", "|"), html)


def _link_on_site(target: str, page: Page, files: Files) -> str:
    """Return the link to a file of the repository, seen from a page of the site."""
    pages = {source: name for name, source in OUTSIDE.items()}
    inside = pages.get(target) or target.removeprefix("docs/")
    exists = not target.startswith("..") and (ROOT / target).exists()
    if inside != target and (files.get_file_from_path(inside) is not None or not exists):
        # If it does not exist, mkdocs warns.
        return posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".")
    if not exists:
        _log.warning("%s has a link to %s, which does not exist", page.file.src_uri, target)
    kind = "tree" if (ROOT / target).is_dir() else "blob"
    return f"https://github.com/{REPOSITORY}/{kind}/{_BRANCH}/{target}"
