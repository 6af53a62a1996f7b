"""Notebooks in a real kernel, in a folder as users have it: with folders of their own whose names
are those of our packages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

__all__ = ["cells", "execute", "own_folder", "printed"]

# What a new user has set: nothing. Threads alone are few, as the machines of tests are shared.
_BAR = re.compile(r"\d+%\|")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def own_folder(place: Path) -> Path:
    """A user's folder with their own `pipelines` and `eval`, as packages that can be imported."""
    for name in ("pipelines", "eval"):
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(f"WHOSE = 'mine: {name}'\n")
    return place


def execute(notebook: NotebookNode, folder: Path, python: Path, home: Path) -> NotebookNode:
    """The notebook with its outputs, run in `folder` by the kernel of an environment.

    Args:
        notebook: of nbformat.
        folder: the current one of the kernel.
        python: of the environment; ipykernel is in it.
        home: an empty folder for kernel specifications and caches.
    """
    spec = home / "kernels" / "tried"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    told = {"argv": argv, "display_name": "tried", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(told))
    specs = KernelSpecManager(kernel_dirs=[str(home / "kernels")])
    manager = AsyncKernelManager(kernel_name="tried", kernel_spec_manager=specs)
    client = NotebookClient(notebook, km=manager, timeout=280)
    return client.execute(cleanup_kc=True, cwd=str(folder), env={**_ENVIRONMENT, "HOME": str(home)})


def printed(notebook: NotebookNode) -> list[str]:
    """Lines that its cells left on the screen, without those of progress bars."""
    outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
    text = "".join(one["text"] for one in outputs if one["output_type"] == "stream")
    lines = [line.rpartition("\r")[2].strip() for line in text.split("\n")]
    return [line for line in lines if line and not _BAR.search(line)]


def cells(*sources: str) -> NotebookNode:
    """A notebook of code cells."""
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return made
