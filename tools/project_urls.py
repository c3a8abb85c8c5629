"""The addresses that a release states are those of the repository that it is released from.

    python tools/project_urls.py https://github.com OWNER/NAME

Puts the table [project.urls] into pyproject.toml; the release workflow does so before it builds.
"""

from __future__ import annotations

import sys
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def with_urls(pyproject: str, server: str, repository: str) -> str:
    """What pyproject.toml says, with the addresses of a repository of a server."""
    owner, name = repository.split("/")
    home = f"{server}/{repository}"
    urls = {
        "Documentation": f"https://{owner.lower()}.github.io/{name}/",
        "Source": home,
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    lines = "".join(f'{key} = "{url}"\n' for key, url in urls.items())
    return f"{pyproject.rstrip()}\n\n[project.urls]\n{lines}"


if __name__ == "__main__":
    PYPROJECT.write_text(with_urls(PYPROJECT.read_text(), *sys.argv[1:]))
