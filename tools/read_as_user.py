"""Run notebooks as a reader would who has the library: every exported cell is replaced by an import of the module that was made of it.

    coverage run tools/read_as_user.py            all of them
    coverage run tools/read_as_user.py 00_data    some

nbdev_test runs the exported cells themselves, and so none of the library's lines: coverage would read 0 %.
"""
import os
import sys
from pathlib import Path

from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor

NBS = Path(__file__).resolve().parent.parent / "nbs"
IMPORT = "import importlib; globals().update({{k: v for k, v in vars(importlib.import_module('skin_lesion.{}')).items() if k[:2] != '__'}})"


def as_reader(path):
    "The notebook with imports in the place of its exported cells."
    notebook, module = NBProcessor(path, procs=FrontmatterProc, process=True).nb, None
    for cell in notebook.cells:
        directives = getattr(cell, "directives_", None) or {}
        module = directives.get("default_exp", [module])[0]
        if "export" in directives:
            cell.source = IMPORT.format(module)
    return notebook


def is_left_out(cell):
    "Whether nbdev_test would not run it either."
    return cell.cell_type != "code" or (cell.directives_ or {}).get("eval:", [""])[0].lower() == "false"


def run(path):
    "Run one notebook; whether it went through."
    shell = CaptureShell(path)
    try:
        with working_directory(path.parent):
            shell.run_all(as_reader(path), exc_stop=True, preproc=is_left_out)
    except Exception:
        print(shell.prettytb(fname=path), file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    os.environ["IN_TEST"] = "1"
    sys.path.insert(0, str(NBS.parent))
    paths = [path for path in sorted(NBS.rglob("*.ipynb")) if not path.name.startswith(".") and (not sys.argv[1:] or path.stem in sys.argv[1:])]
    failed = [path.stem for path in paths if not run(path)]
    sys.exit(f"These notebooks did not run: {', '.join(failed)}" if failed else 0)
