"""Write the repository's address, which pyproject.toml alone states, wherever a reader meets it: `make address`.

A fork changes `Repository` in pyproject.toml and runs it once: README, badges and install cells then name the fork.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = re.compile(
    r"(colab\.research\.google\.com/github/|@ git\+https://github\.com/|git clone https://github\.com/)[^/\s]+/[\w.-]+"
)


def stated(root: Path = ROOT) -> str:
    """`owner/name` on GitHub. ValueError for an address elsewhere, from where Colab opens nothing."""
    url = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", url)
    if match is None:
        raise ValueError(f"pyproject.toml: Repository is {url}; write https://github.com/OWNER/NAME")
    return match[1]


def write(root: Path = ROOT) -> dict[str, int]:
    """Write the stated address into README and notebooks; file name to how many places it has there."""
    address, places = stated(root), {}
    for path in (root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))):
        before = path.read_text(encoding="utf-8")
        after, places[path.name] = PLACES.subn(lambda match: match[1] + address, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
    return places


if __name__ == "__main__":
    print(f"{stated()} in {', '.join(write())}")
