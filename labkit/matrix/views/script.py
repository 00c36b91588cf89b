"""A cell as a short script that breaks the same shards in the same way, and reads."""

from __future__ import annotations

from labkit.matrix.cells import Cell
from labkit.matrix.programs import Command, Service

__all__ = ["script"]

_SCRIPT = '''\
"""{title} on {backend}, a cell of the failure matrix. {summary}"""

{imports}


async def read(lab):
    {read}


def shown(answer):
    text = str(answer)
    return text if len(text) < 1000 else text[:500] + " ... " + text[-500:]


async def main():
    rows = dataset({table!r}, seed={seed}).table
    options = {{"launcher": {launcher!r}, "timeout": {timeout!r}, "seed": {seed}, "replicas": {replicas}}}
    async with Lab({backend!r}, rows=rows, **options) as lab:
        print("healthy:", shown(await read(lab)))
        async with lab.fault({faults}):
            print("broken: ", shown(await read(lab)))
        print("healed: ", shown(await read(lab)))


asyncio.run(main())
'''


def script(
    cell: Cell, reader: str | Command | Service | None, *, launcher: str, timeout: float, seed: int, table: str
) -> str:
    """The script for a reader: "module:function", a program, or None for labkit's own."""
    imports, read = _reading(reader, cell)
    always = ["import asyncio", "from labkit import Lab, faults", "from labkit.matrix.dataset import dataset"]
    acting = [
        f"{shard!r}: [{', '.join(f'faults.{fault!r}' for fault in on_it)}]" for shard, on_it in cell.faults.items()
    ]
    return _SCRIPT.format(
        title=cell.title,
        backend=cell.backend,
        summary=cell.summary,
        imports="\n".join([*always, *imports]),
        read="\n    ".join(read),
        table=table,
        seed=seed,
        launcher=launcher,
        timeout=timeout,
        replicas=cell.replicas,
        faults="{" + ", ".join(acting) + "}",
    )


def _reading(reader: str | Command | Service | None, cell: Cell) -> tuple[list[str], list[str]]:
    """What must be imported, and the lines that read a lab."""
    if reader is None:
        return [], ["return await lab.read()"]
    if isinstance(reader, Command):
        told = "lab.urls, lab.tables, lab.router.prune(), lab.timeout, lab.schema.names"
        return (
            ["from labkit.matrix.programs import Command, request_for"],
            [f"return await Command({reader.line!r})(request_for({told}))"],
        )
    if isinstance(reader, Service):
        return (
            [
                "from pathlib import Path",
                "from labkit.matrix.programs import Service",
                "from labkit.topology import Topology",
            ],
            [
                f"Path({reader.topology!r}).write_text(Topology.of(lab).to_toml())",
                f"return await Service({reader.url!r}, {reader.topology!r})({{}})",
            ],
        )
    module, _, name = reader.partition(":")
    tables = ", dict(lab.tables)" if cell.backend == "redis-cluster" else ""
    return (
        ["import inspect", f"import {module}"],
        [
            f"answer = {module}.{name}(dict(lab.urls){tables})",
            "return await answer if inspect.isawaitable(answer) else answer",
        ],
    )
