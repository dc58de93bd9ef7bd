"""What the program `parsim` leaves out of the libraries that it imports, where half of its time went; as a library parsim leaves all in."""

from __future__ import annotations

import os
from typing import Any, Final

from parsim.report.later import later

# What libraries import for what no command does, or few: each is there as soon as something of it is used.
_LATER: Final = (
    "numpy",  # a quarter of `parsim check`, which computes nothing
    "numpy._core._add_newdocs",  # its manual
    "numpy._core._add_newdocs_scalars",
    "email",  # packages are described like mails
    "zipfile",  # in which some lie
    "importlib.metadata._adapters",
    "platform",
    "hashlib",
    "secrets",
    "socket",
    "subprocess",
    "plistlib",  # fonts of other systems
    "matplotlib._afm",
    "matplotlib.category",  # axes of names and of days
    "matplotlib.dates",
    "fontTools.agl",  # names of glyphs in TeX
    "PIL.ExifTags",  # what cameras write
    "PIL.BmpImagePlugin",  # pictures that are read
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
)
_VERSION: Final = "Version: "  # in what a package says of itself
_MULTIPLY: Final = ("execute", "verify")  # matrices, in this process


def lighten(command: str) -> None:
    """Let the rest of this process import less; for a program only, since others may want what is left out.

    Args:
        command: the command of `parsim` that runs.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # to find some it reads what every installed package says of itself
    if command not in _MULTIPLY:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that nobody needs: a quarter of the import of numpy
    manuals = {"matplotlib.artist": _without_signatures, "matplotlib._docstring": _without_manual}
    later(dict.fromkeys(_LATER) | manuals | {"importlib.metadata": _without_mails})


def _without_mails(metadata: Any) -> None:
    """Who asks for a version, as simpy does for its own, waits until all that a package says of itself is parsed as a mail."""
    parsed = metadata.version

    def version(name: str) -> str:
        lines = (metadata.distribution(name).read_text("METADATA") or "").splitlines()
        return next((line.removeprefix(_VERSION) for line in lines if line.startswith(_VERSION)), None) or str(parsed(name))

    metadata.version = version


def _without_signatures(artist: Any) -> None:
    """For each class of artists matplotlib finds what can be set of it, and writes a manual of that: a third of its import."""
    artist.kwdoc = lambda _: ""
    if hasattr(artist.Artist, "_update_set_signature_and_docstring"):
        artist.Artist._update_set_signature_and_docstring = lambda: None


def _without_manual(docstring: Any) -> None:
    for writer in ("Substitution", "_ArtistPropertiesSubstitution"):
        if hasattr(docstring, writer):
            getattr(docstring, writer).__call__ = lambda _, described: described
