"""Imports point only down. The floors are those of the table in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "jensen"
FACE = "__init__"  # the package itself, `import jensen`

# On these floors neighbours may meet: single files at the bottom, and what together is the face at the top.
SHARED = {0, 7}


def read_floors(page: str) -> dict[str, int]:
    """Floor of every package and module, from the table under the heading "Floors"."""
    table = page.split("## Floors")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", table, flags=re.MULTILINE)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}


def imported(source: str, place: tuple[str, ...]) -> Iterator[str]:
    """What a file imports of jensen, as packages and modules of its first level.

    `place` is the package that the file lies in, as `("jensen", "models")`; relative imports start there.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*place[: len(place) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from jensen import core` and `from jensen import train`: a floor of its own, or the face.
            paths = [f"{module}.{alias.name}" for alias in node.names] if module == "jensen" else [module]
        else:
            continue
        for path in paths:
            package, _, rest = path.partition(".")
            if package == "jensen":
                yield rest.split(".")[0] if rest else FACE


def broken(name: str, source: str, place: tuple[str, ...], floors: dict[str, int]) -> list[str]:
    """Complaints about a file's imports, one line each."""
    here = place[1] if len(place) > 1 else Path(name).stem
    if here not in floors:
        return [f"{name}: {here} stands on no floor; add it to the table in docs/architecture.md"]
    complaints = []
    for target in imported(source, place):
        target = target if target in floors else FACE
        above, below = floors[here], floors[target]
        if target == here or below < above or (below == above and below in SHARED):
            continue
        relation = "beside" if below == above else "above"
        complaints.append(f"{name} imports {target} (floor {below}, {relation} {here} on floor {above})")
    return complaints


FLOORS = read_floors((ROOT / "docs" / "architecture.md").read_text())
FILES = sorted(SOURCE.rglob("*.py"))


def test_table_is_read_whole():
    assert FLOORS["errors"] == 0
    assert FLOORS["nets"] == FLOORS["core"] == 2
    assert FLOORS["models"] == FLOORS["training"] == 5
    assert FLOORS[FACE] == 7


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_only_down(file: Path):
    place = file.relative_to(SOURCE.parent).parent.parts
    complaints = broken(str(file.relative_to(SOURCE)), file.read_text(), place, FLOORS)
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import jensen.training.trainer", "imports training (floor 5, above core on floor 2)"),
        ("from jensen.models.vae import vae", "imports models (floor 5, above core on floor 2)"),
        ("from jensen import jobs", "imports jobs (floor 6, above core on floor 2)"),
        ("from jensen import train", "imports __init__ (floor 7, above core on floor 2)"),
        ("import jensen", "imports __init__ (floor 7, above core on floor 2)"),
        ("from ..objectives import elbo", "imports objectives (floor 4, above core on floor 2)"),
        ("from .. import cli", "imports cli (floor 7, above core on floor 2)"),
        ("from jensen.nets import mlp", "imports nets (floor 2, beside core on floor 2)"),
        ("def f():\n    import jensen.cli", "imports cli (floor 7, above core on floor 2)"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jensen.conditionals import Head",
            "imports conditionals (floor 3, above core on floor 2)",
        ),
    ],
)
def test_an_import_that_points_up_is_found(source: str, complaint: str):
    assert broken("core/made_up.py", source, ("jensen", "core"), FLOORS) == [f"core/made_up.py {complaint}"]


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from jensen.core.joint import Joint",
        "from .joint import Joint",
        "from . import joint",
        "from jensen import errors, units",
        "from jensen.distributions import Normal",
        "import jensenius",
    ],
)
def test_an_import_that_points_down_is_allowed(source: str):
    assert broken("core/made_up.py", source, ("jensen", "core"), FLOORS) == []


def test_neighbours_meet_only_where_the_floor_is_shared():
    assert broken("registry.py", "from jensen.errors import ConfigError", ("jensen",), FLOORS) == []
    assert broken("cli.py", "import jensen", ("jensen",), FLOORS) == []
    assert len(broken("models/a.py", "import jensen.training", ("jensen", "models"), FLOORS)) == 1


def test_a_package_without_a_floor_is_named():
    assert "utils stands on no floor" in broken("utils.py", "", ("jensen",), FLOORS)[0]
