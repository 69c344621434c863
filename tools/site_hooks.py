"""What mkdocs does beside reading docs/: pages made from the code, and links that lead out of docs/.

verbs.md      from the program's own help
api.md        the names of `sparsight.__all__`, whose docstrings mkdocstrings reads
machines.md   which machine each result in benchmarks/results/ was measured on
notebooks/    the notebooks of examples/, as pages
Pages of docs/ that mkdocs.yml does not name yet come under "More".
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "examples" / "notebooks"
RESULTS = ROOT / "benchmarks" / "results"
BESIDE = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
# Where a link that leads out of docs/ goes on the site; the rest of it is kept.
OUT = (
    ("../CONTRIBUTING.md", "contributing.md"),
    ("../CHANGELOG.md", "changelog.md"),
    ("../README.md", "index.md"),
    ("../benchmarks/results/", "results/"),
)
MADE_HERE = (
    "- **Which command, which name?** [Verbs](verbs.md), and the [Python interface](api.md).\n"
    "- **On which machine?** [Results by machine](machines.md).\n"
)
KINDS = ("Verbs", "Methods", "Settings and data", "Errors")


def on_config(config: Any) -> Any:
    """Pages that are in docs/ and not in the menu are put into it."""
    named = set(re.findall(r"[\w-]+\.md", json.dumps(config.nav)))
    pages = {page.name for page in Path(config.docs_dir).glob("*.md")}
    books = [{title_of(book): f"notebooks/{book.stem}.md"} for book in sorted(NOTEBOOKS.glob("*.ipynb"))]
    next(part for part in config.nav if "Tutorials" in part)["Tutorials"][1:1] = books
    if more := sorted(pages - named):
        config.nav.append({"More": more})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and the pictures of benchmarks/results/."""
    made = {
        "verbs.md": verbs(), "api.md": api(), "machines.md": machines(),
        **{page: (ROOT / source).read_text(encoding="utf-8") for page, source in BESIDE.items()},
        **{f"notebooks/{book.stem}.md": book_page(book) for book in NOTEBOOKS.glob("*.ipynb")},
    }  # fmt: skip
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for picture in RESULTS.glob("*.svg"):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/, and those of pages that stand beside docs/ in the repository."""
    if page.file.src_uri == "index.md":
        markdown += MADE_HERE
    if page.file.src_uri in BESIDE:
        markdown = markdown.replace("](docs/", "](")
    markdown = re.sub(r"\]\(\.\./examples/notebooks/(\w+)\.ipynb\)", r"](notebooks/\1.md)", markdown)
    for source, target in OUT:
        markdown = markdown.replace(f"]({source}", f"]({target}")
    return markdown


def title_of(book: Path) -> str:
    """The first heading of a notebook."""
    first = json.loads(book.read_text(encoding="utf-8"))["cells"][0]["source"]
    return "".join(first).split("\n")[0].removeprefix("# ")


def book_page(book: Path) -> str:
    """A notebook as a page: its words and its code."""
    parts = []
    for cell in json.loads(book.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"]).replace(".ipynb)", ".md)")  # a link to another notebook
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    where = f"*`examples/notebooks/{book.name}`: open it with Jupyter, and run it from top to bottom.*"
    return "\n\n".join([parts[0], where, *parts[1:]])


def verbs() -> str:
    """Every verb's help, as the program itself prints it."""
    import typer

    from sparsight.cli import app

    group: Any = typer.main.get_command(app)
    context = group.make_context("sparsight", [], resilient_parsing=True)
    found = ["# Verbs", plain(group.help), "`--verbose`, anywhere, shows where something failed."]
    for name in sorted(group.list_commands(context)):
        verb = group.get_command(context, name)
        inner = verb.make_context(name, [], parent=context, resilient_parsing=True)
        found += [f"## {name}", plain(verb.help), f"    {' '.join(usage(verb, inner))}"]
        rows = [row for parameter in verb.params if (row := described(parameter, inner))]
        if rows:
            found.append("\n".join(["| | |", "| --- | --- |", *rows]))
    return "\n\n".join(found)


def usage(verb: Any, context: Any) -> list[str]:
    """The words of a command line."""
    return [context.command_path, *verb.collect_usage_pieces(context)]


def described(parameter: Any, context: Any) -> str:
    """One parameter as a row of a table; nothing if it is hidden."""
    if getattr(parameter, "hidden", False):
        return ""
    record = parameter.get_help_record(context)
    name, words = record if record else (parameter.make_metavar(context), parameter.help or "")
    return f"| `{name.replace('|', ' or ')}` | {plain(words).replace('|', '&#124;')} |"


def plain(text: str | None) -> str:
    """Help without the marks of rich, as Markdown."""
    text = re.sub(r"\[/?(?:bold|dim|italic)\]", "`", text or "")
    return text.replace("\\[", "[").replace("<", "&lt;").strip()


def api() -> str:
    """The public names by kind."""
    import sparsight
    from sparsight.methods import METHODS

    methods = {method.config.__name__ for method in METHODS.values()}
    groups: dict[str, list[str]] = {title: [] for title in KINDS}
    for name in sparsight.__all__:
        value = getattr(sparsight, name)
        if not isinstance(value, type):
            groups["Verbs"].append(name)
        elif issubclass(value, Exception):
            groups["Errors"].append(name)
        else:
            groups["Methods" if name in methods else "Settings and data"].append(name)
    words = "Everything is loaded when first used: `import sparsight` costs next to nothing."
    parts = ["# Python interface", words]
    for title, names in groups.items():
        parts += [f"## {title}", *(f"::: sparsight.{name}" for name in names)]
    return "\n\n".join(parts)


def machines() -> str:
    """Which results there are of which machine."""
    rows = []
    for path in RESULTS.rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        protocol = found.get("protocol") if isinstance(found, dict) else None
        if protocol:
            torch = protocol.get("versions", {}).get("torch", "-")
            name = f"`{path.relative_to(RESULTS).as_posix()}`"
            more = (protocol.get("dtype", "-"), torch, protocol.get("revision") or "-")
            rows.append((protocol["machine"], name, *more))
    head = [
        "| machine | result | number format | PyTorch | revision |",
        "| --- | --- | --- | --- | --- |",
    ]
    words = (
        "Every result of `benchmarks/results/`, by the machine it was measured on. Figures of different "
        "machines are never set against each other: each table of [results](results.md) and "
        "[speed](speed.md) is of one."
    )
    table = [*head, *("| " + " | ".join(row) + " |" for row in sorted(rows))]
    return "\n\n".join(["# Results by machine", words, "\n".join(table)])
