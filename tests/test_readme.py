"""What the README says is there, and runs."""

import re
import tomllib
from pathlib import Path

import pytest

from probe.sites import AFTER_BLOCKS, BEFORE_BLOCKS, IN_BLOCK

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def fenced(kind: str) -> list[str]:
    """The blocks ```kind ... ``` of the README."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for found, text in blocks if found == kind]


def examples() -> list[str]:
    """The Python of the README, as a reader pastes it: a block with `import probe` begins anew, others go on."""
    chains = re.split(r"(?m)^(?=import probe$)", "\n".join(fenced("python")))
    return [chain for chain in chains if chain.strip()]


def _case(code: str):
    return pytest.param(code, marks=[pytest.mark.model] if "load_model" in code else [], id=_first_call(code))


def _first_call(code: str) -> str:
    return re.search(r"probe\.(\w+)", code.replace("import probe", "")).group(1)


@pytest.mark.parametrize("code", [_case(code) for code in examples()])
def test_python_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_readme_has_examples_with_and_without_the_default_model():
    assert {"load_model" in code for code in examples()} == {True, False}


def commands() -> str:
    """Everything in the README that is set as code."""
    return "\n".join([*fenced("sh"), *re.findall(r"`([^`\n]+)`", README)])


def test_every_link_within_the_readme_leads_to_a_heading():
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", README))
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    linked = set(re.findall(r"\]\(#([^)]*)\)", README))
    assert len(linked) > 10 and linked <= anchors


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8")))
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", commands()))
    assert named and named <= targets


def test_every_probe_command_of_the_readme_exists():
    import typer

    from probe.cli import app

    known = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"(?:^|[ /`])probe ([a-z][a-z-]*)", commands(), flags=re.MULTILINE))
    assert named and named <= known


def test_the_command_line_is_installed_as_probe():
    from probe.cli import main

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"probe": "probe.cli:main"} and callable(main)


def sites_table() -> str:
    """The table of sites as the README must hold it."""
    rows = ["| short name | full name | dims | what it is |", "|---|---|---|---|"]
    for site in (*BEFORE_BLOCKS, *IN_BLOCK, *AFTER_BLOCKS):
        full = f"blocks.3.{site.suffix}" if site in IN_BLOCK else site.suffix
        rows.append(f"| `{site.short}` | `{full}` | {', '.join(site.dims)} | {site.meaning} |")
    return "\n".join(rows)


def test_the_table_of_sites_is_that_of_the_code():
    found = re.search(r"^\| short name .*?(?=\n\n)", README, flags=re.MULTILINE | re.DOTALL).group()
    assert found.splitlines() == sites_table().splitlines(), f"the README should say:\n{sites_table()}"


def files_of_tree(tree: str) -> list[str]:
    """Paths in a drawing whose lines are indented names, each with a comment after two spaces or more."""
    folders: list[str] = []
    paths = []
    for line in filter(str.strip, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        for name in re.split(r"  +", line.strip())[0].split():
            paths.append("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    return paths


def test_the_tree_names_every_file_of_probe_and_no_other():
    drawn = files_of_tree(fenced("")[0])
    package = ROOT / "probe"
    files = [f.relative_to(ROOT).as_posix() for f in [*package.glob("*.*"), *package.glob("*/*.py")]]
    files = {f for f in files if not f.endswith("__init__.py")}  # they only gather names
    in_probe = [path for path in drawn if path.startswith("probe/") and not path.endswith("/")]
    assert len(in_probe) == len(set(in_probe)), "a file is drawn twice"
    missing, gone = sorted(files - set(in_probe)), sorted(set(in_probe) - files)
    assert not missing and not gone, f"the README's tree lacks {missing} and draws {gone}, which are not there"


def test_the_tree_names_what_stands_at_the_top():
    drawn = [path for path in files_of_tree(fenced("")[0]) if "/" not in path.rstrip("/")]
    missing = [path for path in drawn if not (ROOT / path).exists()]
    assert drawn and not missing, f"the README's tree draws {missing}, which are not there"
