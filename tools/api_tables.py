"How the site shows a function: its signature, then a table of what goes in and what comes out."
import inspect
import re
import textwrap
import warnings

from fastcore.docments import docments
from nbdev.showdoc import BasicMarkdownRenderer

warnings.filterwarnings("ignore", module=r"fastcore\.docscrape")  # of docstrings that classes inherit from other libraries
RETURNS = re.compile(r"^\s*(?:def .*)?\).*:[ \t]*# *(.+)$", re.MULTILINE)


def signature(function):
    "The signature as it is called, without annotations."
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return textwrap.fill(f"{function.__name__}{inspect.Signature(parameters)}", width=88, subsequent_indent="    ", break_long_words=False)


def default(parameter):
    "The default of a parameter as code, cut where it is long."
    return "" if parameter.default is parameter.empty else f"`{textwrap.shorten(repr(parameter.default), 40, placeholder=' ...')}`"


def rows(function):
    "The rows of the table: every documented parameter with its default and meaning, and what is returned."
    documents = docments(function, returns=False)
    for name, parameter in inspect.signature(function).parameters.items():
        if documents.get(name):
            yield f"`{name}`", default(parameter), documents[name]
    returned = RETURNS.search(inspect.getsource(function)) if inspect.isfunction(function) else None
    if returned:
        yield "**returns**", "", returned.group(1)


def line(cells):
    "A line of a Markdown table."
    cells = [" ".join(cell.split()).replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(cells)} |"


def table(function):
    "A Markdown table of the rows, empty where nothing is documented; defaults have a column where there are any."
    found = list(rows(function))
    if not any(row[1] for row in found):
        found = [(name, meaning) for name, _, meaning in found]
    head = {3: ("name", "default", "meaning"), 2: ("name", "meaning")}
    return "\n".join(["", line(head[len(found[0])]), "|---" * len(found[0]) + "|", *map(line, found)]) if found else ""


class ApiTable(BasicMarkdownRenderer):
    "nbdev's own renderer puts the documents into the signature, and leaves out those of the return value."

    def _repr_markdown_(self):
        head, tail = re.split(r"```python.*?```", super()._repr_markdown_(), maxsplit=1, flags=re.DOTALL)
        return f"{head}```python\n{signature(self.sym)}\n```{tail}\n{table(self.sym)}"
