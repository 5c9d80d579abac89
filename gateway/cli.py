"""The command `altgate`: parse, load the configuration, call one function."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

import click

from gateway import __version__, administration, auth, banner, doctor
from gateway.config import DEFAULT_FILE, Config, load, read
from gateway.environment import CLIENT_KEY
from gateway.logs.settings import LogConfig
from gateway.values import ConfigError

with_config = click.option(
    "--config", "file", type=click.Path(path_type=Path), help="The configuration. [default: altgate.toml, if there]"
)


@click.group()
@click.version_option(__version__, prog_name="altgate")
def main() -> None:
    """Puts pictures into words: an OpenAI-compatible gateway to models on your own hardware."""


@main.command()
@click.option("--host", help="The address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; 0 takes a free one. [default: 8000]")
@with_config
def serve(host: str | None, port: int | None, file: Path | None) -> None:
    """Serve chat completions until interrupted."""
    from gateway.logs import pipeline  # noqa: PLC0415 - this and those below take long to import, and only this needs them
    from gateway.reload import KeyFile  # noqa: PLC0415

    given: dict[str, object] = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    flags: dict[str, dict[str, object]] = {"server": given} if given else {}
    key_file = KeyFile(file or DEFAULT_FILE, partial(read, file, os.environ, flags))
    config = _loaded(file, flags)
    with pipeline.running(config.log):
        if config.server.workers > 1:
            from gateway.workers import owner  # noqa: PLC0415 - it needs no web framework, for it answers no request

            owner.run(config, key_file)
        else:
            from gateway import server  # noqa: PLC0415

            server.run(config, key_file)


@main.command()
@click.argument("pictures", nargs=-1, required=True)
@click.option("--model", help="The model, a preset behind it if wanted: demo:alt_text. [default: the first preloaded]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--verbose", is_flag=True, help="Say what was done to each picture before the model saw it.")
@with_config
def caption(pictures: tuple[str, ...], model: str | None, as_json: bool, verbose: bool, file: Path | None) -> None:
    """Caption PICTURES, files or URLs, without a server."""
    from gateway.logs import pipeline  # noqa: PLC0415 - as above

    config = _loaded(file, {})
    if sys.stderr.isatty():
        logging.getLogger("gateway.progress").setLevel(logging.INFO)
    chosen = model or next(iter(config.engines.preload), config.models[0].name)
    if chosen == "demo" and model is None:
        click.echo("(model demo: it knows drawn shapes; for photographs add --model blip-base)", err=True)
    with pipeline.running(LogConfig(level="error", format="text", prompts=config.log.prompts)):
        well = asyncio.run(_print_captions(config, chosen, pictures, as_json=as_json, verbose=verbose))
    if not well:
        sys.exit(1)


async def _print_captions(config: Config, model: str, pictures: Sequence[str], *, as_json: bool, verbose: bool) -> bool:
    """Prints each caption as it comes; whether all pictures got one."""
    import msgspec  # noqa: PLC0415

    from gateway import oneshot  # noqa: PLC0415 - as above: `altgate --help` should not wait for it

    well = True
    # Closed in any case: a reader that leaves must not leave an engine behind.
    async with aclosing(oneshot.captions(config, model, pictures)) as results:
        async for result in results:
            well = well and result.error is None
            if as_json:
                click.echo(msgspec.json.encode(result if verbose else msgspec.structs.replace(result, image=None)))
                continue
            if verbose and result.image is not None:
                click.echo(f"{result.source}: {result.image}", err=True)
            if result.error is not None:
                click.echo(f"{result.source[:200]}: {result.error}", err=True)
            else:
                click.echo(f"{result.source}: {result.caption}" if len(pictures) > 1 else result.caption)
    return well


@main.command()
@with_config
def models(file: Path | None) -> None:
    """List what can be served, from where and in what state."""
    click.echo(banner.models(_loaded(file, {})))


@main.command()
@with_config
def check(file: Path | None) -> None:
    """Say what is wrong with the configuration or the environment, and how to mend it."""
    well = True
    for finding in doctor.findings(_loaded(file, {})):
        wrong = finding.remedy is not None and not finding.optional
        well = well and not wrong
        click.echo(_finding(finding, "WRONG" if wrong else "note "))
    if not well:
        sys.exit(1)


@main.command()
@click.argument("model")
@click.option("--source", type=click.Path(path_type=Path), required=True, help="The checkpoint as it is published.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its tokenizer, where that is another folder.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make; weights are linked.")
def prepare(model: str, source: Path, tokenizer: Path | None, out: Path) -> None:
    """Make a folder that vLLM can serve of a published checkpoint of MODEL, cogvlm-chat or cogvlm2-llama3-chat-19b.

    Altgate does so by itself at the model's first start. This is for checking a checkpoint, or for one place for all.
    """
    from gateway import preparation  # noqa: PLC0415 - as above

    try:
        section = preparation.prepared(model, source, tokenizer, out)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out} is ready. In altgate.toml:\n\n{section}")


@main.group()
def keys() -> None:
    """Make keys for clients."""


@keys.command()
@click.argument("name")
@click.option("--team", help="Whose answers it shares, in the cache and in reports. [default: the key's name]")
def new(name: str, team: str | None) -> None:
    """Make a key, print it once, and print the section that makes NAME known. Writes no file."""
    key = auth.new_key()
    try:
        section = auth.section(name, key, team)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{key}\n\nThis is the key. It is shown this once and kept nowhere. To let it in, add to altgate.toml:\n\n"
        f"{section}\n\nA gateway that runs takes it within seconds."
    )


@main.group()
def cache() -> None:
    """Look at and clear the cache of a running gateway."""


with_gateway = click.option(
    "--url", default="http://127.0.0.1:8000", show_default=True, help="Where the gateway listens."
)
with_key = click.option("--key", envvar=CLIENT_KEY, help=f"An administrator's key. [default: {CLIENT_KEY}]")


@cache.command()
@with_gateway
@with_key
def stats(url: str, key: str | None) -> None:
    """Say what the cache has been good for, and what it holds."""
    try:
        click.echo(administration.stats(url, key))
    except administration.Refused as error:
        raise click.ClickException(str(error)) from None


@cache.command()
@with_gateway
@with_key
@click.option("--team", help="The answers of a team.")
@click.option("--model", help="The answers of a model.")
@click.option("--digest", help="The answers about a picture, or one answer, by the hex digits of its SHA-256.")
def clear(url: str, key: str | None, **chosen: str | None) -> None:
    """Remove the answers that fit all the options given. Other gateways' memory follows within half a minute."""
    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        told, complete = administration.clear(url, key, given)
    except administration.Refused as error:
        raise click.ClickException(str(error)) from None
    click.echo(told)
    if not complete:
        sys.exit(1)


@main.command()
@with_gateway
@with_key
@click.option("--from", "first", metavar="DAY", help="The first day, such as 2026-01-31. [default: 30 days in all]")
@click.option("--to", "last", metavar="DAY", help="The last day. [default: today] Days are UTC's.")
@click.option("--key-name", help="What was used with this key.")
@click.option("--team", help="What a team used.")
@click.option("--model", help="What was used of a model.")
@click.option("--by", default="key,team,model", show_default=True, help="What is told apart: day, key, team, model.")
@click.option("--json", "form", flag_value="json", help="As the gateway says it.")
@click.option("--csv", "form", flag_value="csv", help="For a spreadsheet.")
def usage(
    url: str, key: str | None, form: str | None, first: str | None, last: str | None, **chosen: str | None
) -> None:
    """Say what was used, and what it cost, per key, team, model and day."""
    from gateway.usage import printed  # noqa: PLC0415 - as above

    wanted = {"from": first, "to": last, "key": chosen.pop("key_name"), **chosen}
    given = {name: value for name, value in wanted.items() if value is not None}
    try:
        report = administration.usage(url, key, given)
    except administration.Refused as error:
        raise click.ClickException(str(error)) from None
    click.echo(printed.FORMS[form](report))


def _finding(finding: doctor.Finding, mark: str) -> str:
    return f"ok    {finding.what}" if finding.remedy is None else f"{mark} {finding.what}: {finding.remedy}"


def _loaded(file: Path | None, flags: dict[str, dict[str, object]]) -> Config:
    try:
        return load(file, os.environ, flags)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
