"""The text of Python's own help topics, each paragraph once: topics quote one another, and what is trained on may not come back later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from parsim.errors import ParsimError

SOURCE: Final = "Python's language reference as its standard library ships it, pydoc_data.topics (text differs between versions of Python)"


def paragraphs(topics: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Topic and text of each paragraph that is not a repetition: of these topics in order, or of all by name.

    A topic that this version of Python lacks has no paragraphs.

    Raises:
        ParsimError: this Python comes without its help topics.
    """
    try:
        from pydoc_data.topics import topics as texts
    except ImportError:
        raise ParsimError(
            "this Python comes without the module pydoc_data.topics", "data.name", "Install the whole standard library."
        ) from None
    seen: set[str] = set()
    for topic in topics or sorted(texts):
        for paragraph in texts.get(topic, "").split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                yield topic, paragraph.strip("\n")
