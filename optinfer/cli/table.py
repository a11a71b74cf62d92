"""`optinfer table`: files into a table."""

from __future__ import annotations

from typing import Any

import click

from optinfer.cli import options
from optinfer.cli.printing import answer, say


@click.command()
@click.argument("folder", metavar="FOLDER")
@click.option("-o", "--output", required=True, metavar="TABLE.parquet", help="The table; nothing is overwritten.")
@click.option("--kind", metavar="images|texts|csv|jsonl", help="Which files become rows; default: all, if of one kind.")
@click.option(
    "--labels",
    type=click.Choice(["auto", "parent", "top", "none"]),
    default="auto",
    show_default=True,
    help="Folder that is a file's label: the one it lies in, the topmost one, none; auto: the one it lies in where "
    "each file lies in a folder right below FOLDER.",
)
@click.option(
    "--on-bad-file",
    type=click.Choice(["raise", "quarantine"]),
    default="raise",
    show_default=True,
    help="A file that cannot be read: no table (exit 1), or a table without it; named in both cases.",
)
@click.option("--paths", is_flag=True, help="Images: keep their paths in the table, not their bytes.")
@click.option(
    "--pixel-range",
    type=(float, float),
    metavar="LOW HIGH",
    help="Images of 16 bits or floats: values that become black and white; without it they are refused.",
)
@click.option("--encoding", metavar="NAME", help="Texts, CSV: their encoding; default: UTF-8, nothing else is guessed.")
@click.option("--delimiter", metavar="CHARACTER", help="CSV: between fields; default: found out, and said.")
@click.option("--quote", metavar="CHARACTER", help='CSV: around fields; default: ".')
@options.as_json
def table(folder: str, output: str, as_json: bool, **given: Any) -> None:
    """Make a Parquet file of the images, texts, CSV files or JSON lines below FOLDER, for a job to read.

    Each row has an `id`; images and texts have their folder as `label`. No file is left out without being named.
    """
    from optinfer.commands.make_table import Wanted, make_table
    from optinfer.data.intake import Asked
    from optinfer.records.text import table_text

    kind, labels, bad = given.pop("kind"), given.pop("labels"), given.pop("on_bad_file")
    wanted = Wanted(kind=kind, labels=labels, leave_out_bad=bad == "quarantine", asked=Asked(**given))
    answer(make_table(folder, output, wanted, say), as_json, table_text)
