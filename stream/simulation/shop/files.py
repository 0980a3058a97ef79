"""Puts the shop's page into a folder, and the items beside it."""

from importlib.resources import files
from pathlib import Path

import msgspec

from stream.simulation.world import Slate, World


def write_page(folder: Path) -> None:
    """Make a folder with the page; until `write_catalogue` is called, the page waits for its items."""
    folder.mkdir(parents=True)
    (folder / "index.html").write_bytes(files("stream.simulation.shop").joinpath("index.html").read_bytes())


def write_catalogue(folder: Path, world: World, *, slots: int) -> None:
    """Write the items that live when a world begins, and how many places a list has."""
    items = world.catalogue.alive(world.start)
    sold = Slate(items, world.catalogue.category(items)).candidates()
    whole = folder / "catalogue.part"
    whole.write_bytes(msgspec.json.encode({"items": sold, "slots": slots}))
    whole.rename(folder / "catalogue.json")  # a page that asks meanwhile finds all or nothing
