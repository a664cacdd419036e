"""What hatchling does besides: recipes into the wheel, a README that reads elsewhere.

The repository's address is ``REPOSITORY_URL``, or the remote "origin" of the clone
that is built, or in an unpacked source distribution what that was built with. With one
the links of README lead there and the package has URLs; without, links become text.
"""

import os
import re
import subprocess
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

RECIPES = ("train", "sample")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


class Recipes(BuildHookInterface):
    """The recipes travel inside the package, where the command ``jg`` finds them."""

    def initialize(self, version, build_data):
        """Adds their files; an editable install has them in its checkout."""
        if version == "editable":
            return
        for folder in RECIPES:
            for path in sorted((Path(self.root) / folder).glob("*.py")):
                inside = f"jaxlib_guidance/_recipes/{folder}/{path.name}"
                build_data["force_include"][str(path)] = inside


class Readme(MetadataHookInterface):
    """The README with absolute links, and the project's URLs."""

    def update(self, metadata):
        """Sets ``readme`` and ``urls``."""
        root = Path(self.root)
        found = re.search(
            r'^__version__ = "(.+)"',
            (root / "jaxlib_guidance/__init__.py").read_text(),
            re.M,
        )
        assert found is not None
        url, tag = repository(root), f"v{found[1]}"
        text = (root / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, url, tag),
        }
        metadata["urls"] = urls(url, tag)


def repository(root: Path) -> str | None:
    """Address of the repository without a slash at its end, or None."""
    given = os.environ.get("REPOSITORY_URL")
    if given is None and (root / "PKG-INFO").is_file():
        stored = (root / "PKG-INFO").read_text(encoding="utf-8")
        line = re.search(r"^Project-URL: Repository, (\S+)$", stored, re.M)
        given = line[1] if line else None
    if given is None and (root / ".git").exists():
        command = ("git", "-C", str(root), "remote", "get-url", "origin")
        try:
            out = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except OSError:
            return None
        given = re.sub(r"^git@([^:]+):", r"https://\1/", out.stdout.strip())
    given = re.sub(r"(\.git)?/*$", "", given or "")
    # Not a path, nor an address with a password in it.
    return given if re.fullmatch(r"https://[\w.-]+(/[\w.~-]+)+", given) else None


def urls(url: str | None, tag: str) -> dict[str, str]:
    """The project's URLs by their labels."""
    if url is None:
        return {}
    return {
        "Repository": url,
        "Documentation": f"{url}/blob/{tag}/docs/index.md",
        "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{url}/issues",
    }


def absolute(text: str, url: str | None, tag: str) -> str:
    """Markdown with links into the repository as links to ``url``, or as plain text."""

    def replace(match):
        image, label, target = match.groups()
        if url is None:
            return "" if image else label
        kind = "raw" if image else "blob"
        return f"{image}[{label}]({url}/{kind}/{tag}/{target})"

    return LINK.sub(replace, text)
