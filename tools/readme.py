"Makes README.md from nbs/index.ipynb, without Quarto: what a reader of the page sees, with links that hold on GitHub."
import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "index_files"
HIDDEN = re.compile(r"^#\|\s*(hide\s*$|default_exp|export)", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n", re.MULTILINE)
STYLE = re.compile(r"<style.*?</style>\s*", re.DOTALL)  # GitHub shows it as text
ALT = re.compile(r"^#\| fig-alt: (.+)$", re.MULTILINE)
RELATIVE = re.compile(r"(\]\(|(?:src|href)=\")(?!https?:|mailto:|#|index_files/)")


def visible_cells(notebook):
    "The cells that a reader sees, without nbdev's directives."
    cells = [c for c in notebook.cells if c.cell_type != "raw" and not (c.cell_type == "code" and HIDDEN.search(c.source))]
    for cell in cells:
        cell.metadata["transient"] = {"remove_source": "#| echo: false" in cell.source}
        cell.source = DIRECTIVE.sub("", cell.source)
    return cells


def described(markdown, descriptions):
    "Pictures with what they show in place of their format's name, in order."
    for description in descriptions:
        markdown = markdown.replace("![png](", f"![{description}](", 1)
    return markdown


def from_root(markdown):
    "The same links, seen from the top of the repository: `00_data.ipynb` is `nbs/00_data.ipynb`."
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [RELATIVE.sub(r"\1nbs/", part) for part in parts[::2]]
    return "".join(parts)


def main():
    "Write README.md, and the pictures that cells drew into index_files/."
    notebook = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    descriptions = ALT.findall("\n".join(cell.source for cell in notebook.cells))
    notebook.cells = visible_cells(notebook)
    notebook.metadata.language_info = {"name": "python"}
    resources = {"output_files_dir": PICTURES.name}
    markdown, resources = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    shutil.rmtree(PICTURES, ignore_errors=True)
    for name, picture in resources["outputs"].items():
        PICTURES.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(picture)
    source = "<!-- Made from nbs/index.ipynb by `make readme`: change it there. -->\n\n"
    text = re.sub(r"\n{3,}", "\n\n", from_root(described(STYLE.sub("", markdown), descriptions)))
    (ROOT / "README.md").write_text(source + text.strip() + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
