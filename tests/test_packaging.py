"""What is installed, what is pinned, and what CI runs are the same."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    """Distribution -> version, as constraints.txt has them."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line) for line in lines)
    return dict(line.split("==") for line in lines)


def needed() -> Iterator[tuple[str, str]]:
    """(distribution, installed version) of everything that plusx[dev] needs here, direct and transitive."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["dev"]]
    seen = set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(requirement.name)
        yield key[0], distribution.version
        for text in distribution.requires or []:
            child = Requirement(text)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)


def fixed_by_torch(name: str) -> bool:
    """The CUDA packages whose exact version PyTorch itself asks for."""
    return name.startswith(("nvidia-", "cuda-"))


def test_every_dependency_is_pinned_to_the_version_installed() -> None:
    pinned, installed = pins(), dict(needed())
    assert {n: v for n, v in installed.items() if not fixed_by_torch(n)}.items() <= pinned.items()
    assert set(pinned) <= set(installed), "pinned but not needed"


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    commands = [line.strip().removeprefix("@$(BIN)/") for line in lint.splitlines() if "$(BIN)" in line]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == commands
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert [shlex.split(line)[:2] for line in script.splitlines() if "make" in line and line[0] != "#"] == [
        ["make", "test"]
    ]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
