"""The command `harness`: options in, messages and exit codes out; what it does lives in the layers below.

Exit codes: 0 all well, 1 some cell failed, a limit was not kept or something could not be written, 2 interrupted,
3 internal error, 4 usage, 5 nothing selected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.config import ConfigError, RunConfig

if TYPE_CHECKING:
    from harness.registry import Registry

EXIT_FAILED, EXIT_INTERRUPTED, EXIT_INTERNAL, EXIT_USAGE, EXIT_NOTHING = 1, 2, 3, 4, 5
KINDS = ("methods", "models", "datasets", "metrics", "devices")


class HarnessGroup(click.Group):
    """A group whose usage errors exit with 4, and whose other errors are one line."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command and turn every end into an exit code."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except (click.exceptions.Abort, KeyboardInterrupt):
            fail("interrupted; run the same command again to go on where it stopped", EXIT_INTERRUPTED)
        except click.ClickException as error:
            fail(error.format_message(), EXIT_USAGE)
        except Exception as error:
            if "--debug" in sys.argv:
                raise
            explain(error)
        sys.exit(code if isinstance(code, int) else 0)


def fail(message: str, code: int) -> None:
    """One line on standard error, and out."""
    click.echo(f"harness: {' '.join(message.split())}", err=True)
    sys.exit(code)


def explain(error: Exception) -> None:
    """End with the line and the exit code that an error deserves."""
    from harness.registry import RegistryError
    from harness.rows import DataError
    from harness.store import StoreError

    if isinstance(error, ConfigError | RegistryError | DataError):
        fail(str(error), EXIT_USAGE)
    if isinstance(error, StoreError | OSError):
        fail(str(error), EXIT_FAILED)
    fail(f"internal error: {type(error).__name__}: {error}; run again with --debug for the traceback", EXIT_INTERNAL)


@click.group(cls=HarnessGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="posttrain-harness", prog_name="harness")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Compare post-training methods: what does each buy, and what does it cost."""
    del debug  # read where errors end


def complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Shell completion from the names in the registry."""

    def names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        del context, parameter
        with contextlib.suppress(Exception):
            found = registry()
            known = found.methods if kind == "methods" else found.others[kind]
            return [name for name in known if name.startswith(incomplete)]
        return []

    return names


def registry() -> Registry:
    """The registry, with a warning on standard error for every plugin that is broken."""
    from harness import registry as registries

    found = registries.load()
    for plugin in found.plugins:
        if plugin.error:
            click.echo(f"harness: warning: plugin {plugin.name} is left out: {plugin.error}", err=True)
    return found


@main.command()
@click.option("--all", "everything", is_flag=True, help="Every method, after the stages it declares (the default).")
@click.option("-m", "--pipeline", "pipelines", multiple=True, metavar="PIPELINE", shell_complete=complete("methods"),
              help="A method or a pipeline, like 'cot-sft > dpo + self-consistency'. May be given again.")  # fmt: skip
@click.option("-o", "--option", "options", multiple=True, metavar="METHOD.FIELD=VALUE", help="Set a hyper-parameter.")
@click.option("--model", default="tiny", show_default=True, shell_complete=complete("models"),
              help="A model by name, hub id or folder.")  # fmt: skip
@click.option("--dataset", default="tiny-world", show_default=True, shell_complete=complete("datasets"),
              help="A dataset by name, or a .jsonl file.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, shell_complete=complete("devices"), help="Where to run.")
@click.option("--seeds", default="0", show_default=True, help="Seeds, separated by commas.")
@click.option("--limit", type=click.IntRange(min=1), help="Number of test problems.  [default: the dataset's]")
@click.option("--train-tokens", type=click.IntRange(min=1), help="Training budget a stage.  [default: the dataset's]")
@click.option("--question-tokens", type=click.IntRange(min=1),
              help="Most tokens that an answerer may sample for a question.  [default: no limit]")  # fmt: skip
@click.option("--curve", metavar="WIDTHS",
              help="Answer with this many samples (beams, ...) besides, like 1,4,16: a board of curves.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Results folder.  [default: results/MODEL-DATASET]")  # fmt: skip
@click.option("-j", "--jobs", type=click.IntRange(min=1), default=min(2, os.cpu_count() or 1), show_default=True,
              help="Worker processes.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=3600.0, show_default=True,
              help="Seconds after which a job is killed.")  # fmt: skip
@click.option("--fresh", is_flag=True, help="Do again what is in the store.")
@click.option("--inline", is_flag=True, help="Run in this process, one job at a time, for debugging.")
@click.option("--json", "as_json", is_flag=True, help="Print the boards as JSON on standard output.")
def run(everything: bool, as_json: bool, **asked: Any) -> None:
    """Run methods on one model and one dataset, and write the boards."""
    if everything and asked["pipelines"]:
        message = "--all and -m exclude each other"
        raise ConfigError(message)
    from rich.console import Console

    from harness.progress import make_reporter
    from harness.runner import run as perform

    found = registry()
    config = make_config(found, **asked)
    console = Console(stderr=as_json)
    result = perform(config, found, make_reporter(console))
    if as_json:
        click.echo(json.dumps(result.boards, allow_nan=False))
    else:
        show_boards(console, result.boards)
    show_end(console, config, result)
    sys.exit(EXIT_FAILED if result.failed else 0)


def show_boards(console: Any, boards: Mapping[str, Sequence[Any]]) -> None:
    """Print the boards that have a row, as wide as the terminal."""
    from harness.tables import render

    for name, rows in boards.items():
        if rows:
            console.print(render(name, rows, width=console.width))


def show_end(console: Any, config: RunConfig, result: Any) -> None:
    """Which files were written, and the next command worth typing."""
    console.print("Wrote:", *[f"  {path}" for path in result.paths], sep="\n", highlight=False, soft_wrap=True)
    failed = next((row for row in result.boards["accuracy"] if row["status"] != "ok"), None)
    shown = failed or result.boards["accuracy"][0]
    if failed or config.limit is None:
        why = "Why it failed" if failed else "What is behind the first row"
        command = f"harness show '{shown['pipeline']}' --out {config.out}"
    else:
        why, command = "As many test problems as usual", again_without_limit()
    console.print(f"{why}: {command}", highlight=False, markup=False, soft_wrap=True)


def again_without_limit() -> str:
    """The command line that was typed, without --limit."""
    import shlex

    words = list(sys.argv[1:])
    if "--limit" in words:
        at = words.index("--limit")
        del words[at : at + 2]
    return shlex.join(["harness", *[w for w in words if not w.startswith("--limit=")]])


def make_config(
    found: Registry,
    *,
    options: Sequence[str],
    seeds: str,
    curve: str | None,
    timeout: float,
    out: Path | None,
    **same: Any,
) -> RunConfig:
    """The request as it was typed, checked as far as that needs no work."""
    from harness.plan import check_options, parse_options

    if not found.methods:
        fail("no method is installed: see `harness plugins`", EXIT_NOTHING)
    numbers, widths = whole_numbers("--seeds", seeds), whole_numbers("--curve", curve) if curve else ()
    if out is None:
        from harness.files import slugged

        limit = f"-limit{same['limit']}" if same["limit"] else ""
        out = Path("results") / slugged(f"{same['model']}-{same['dataset']}{limit}")
    changed = parse_options(options, found)
    check_options(changed, found)
    return RunConfig(options=changed, seeds=numbers, curve=widths, out=out, timeout_s=timeout, **same)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """What an option lists, each once."""
    try:
        return tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        message = f"{option} {text!r}: expected whole numbers separated by commas, like 0,1,2"
        raise ConfigError(message) from None


@main.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(kind: str, as_json: bool) -> None:
    """List methods, models, datasets, metrics or devices."""
    rows = describe(registry(), kind)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        show_table(rows, ("name", "family", "verbs", "after", "summary") if kind == "methods" else ("name", "summary"))


def describe(found: Registry, kind: str) -> list[dict[str, Any]]:
    """Rows of `harness ls`."""
    if kind == "methods":
        keys = ("name", "family", "verbs", "after", "needs", "summary", "distribution", "version", "fields")
        return [{key: dataclasses.asdict(info)[key] for key in keys} for info in found.methods.values()]
    return [
        {"name": name, "summary": summary, "distribution": plugin.distribution, "version": plugin.version}
        for name, (summary, plugin) in found.others[kind].items()
    ]


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List plugins: what each brings, and what failed to load and why."""
    from harness import registry as registries

    rows = []
    for plugin in registries.scanned():
        names = [m["name"] for m in plugin.methods] + [i["name"] for items in plugin.others.values() for i in items]
        status = f"broken: {plugin.error}" if plugin.error else "ok"
        origin = {"distribution": plugin.distribution, "version": plugin.version}
        rows.append({"plugin": plugin.name, "status": status, "brings": names, **origin})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        show_table(rows, ("plugin", "status", "brings", "distribution", "version"))


def show_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as a table on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*[escape(", ".join(c) if isinstance(c, list | tuple) else str(c)) for c in cells])
    Console().print(table)


@main.command()
@click.argument("cell")
@click.option("--out", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("results"),
              help="Results folder, or a folder of such folders.", show_default=True)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def show(cell: str, out: Path, as_json: bool) -> None:
    """Show the facts of a cell: CELL is a pipeline as the board names it, or the beginning of a key."""
    from harness.inspection import matching, summarise

    records = list(matching(cell, out))
    if not records:
        fail(f"no cell {cell!r} under {out}: pipelines are named as on the board", EXIT_USAGE)
    if as_json:
        click.echo(json.dumps(records, indent=1))
        return
    for record in records:
        click.echo(summarise(record))


@main.command()
@click.argument("first")
@click.argument("second")
@click.option("--out", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("results"),
              help="Where pipelines are: a results folder, or a folder that holds one.", show_default=True)  # fmt: skip
@click.option("--fail-on", "limits", metavar="LIMITS",
              help="Exit with 1 where these are not kept, like accuracy:-0.02,p50:1.2: the least difference, and the "
                   "largest ratios.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: str, second: str, out: Path, limits: str | None, as_json: bool) -> None:
    """Compare SECOND with FIRST, problem by problem: two results folders, or two pipelines of one."""
    from harness import comparison
    from harness.inspection import the_folder

    kept = comparison.parse_limits(limits) if limits else {}
    if Path(first).is_dir() != Path(second).is_dir():
        message = f"{first} and {second}: give two results folders, or two pipelines as the board names them"
        raise ConfigError(message)
    metrics = registry().specs("metrics")
    if Path(first).is_dir():
        found, notes = comparison.compare_folders(Path(first), Path(second), metrics)
    else:
        found, notes = [comparison.compare_pipelines(the_folder(out), first, second, metrics)], []
    missed = comparison.shortfalls(found, kept)
    if as_json:
        rows = [dataclasses.asdict(each) for each in found]
        click.echo(json.dumps({"comparisons": rows, "left_out": notes, "missed": missed}, indent=1))
    else:
        rows = [comparison.described(each) for each in found]
        show_table(rows, list(rows[0]))
        for each in found if len(found) == 1 else ():
            click.echo(f"fixed: {', '.join(each.fixed) or 'none'}\nbroken: {', '.join(each.broken) or 'none'}")
        click.echo("".join(f"{note}\n" for note in notes), nl=False)
    for line in missed:
        click.echo(f"harness: {line}", err=True)
    sys.exit(EXIT_FAILED if missed else 0)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def boards(folder: Path) -> None:
    """Make the boards of a results folder again, from its facts alone."""
    from rich.console import Console

    from harness import boards as making
    from harness.runner import board_keys

    made = making.make_boards(folder, registry().specs("metrics"), keys=board_keys(folder))
    console = Console()
    show_boards(console, made)
    for path in making.write_boards(folder, made):
        console.print(path, highlight=False, soft_wrap=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this machine: versions, devices, a self-check of each, and where caches lie."""
    from harness.doctor import examine

    rows = examine(registry())
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        show_table(rows, ("what", "state", "detail"))
    sys.exit(EXIT_FAILED if any(row["state"] == "bad" for row in rows) else 0)


if __name__ == "__main__":
    main()
