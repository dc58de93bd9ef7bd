"""Whose measurements a row is of, and which rows are one run: what errors, shares of the rate and intervals count once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from parsim.validate.defaults import release_of, software_of
from parsim.validate.table import MEASURES, TableRow

# Families that are of one document: NVIDIA-NeMo/Megatron-Bridge, docs/performance-summary.md with its archive, at two commits.
ONE_DOCUMENT: Final[Mapping[str, str]] = {"nemo_bridge2": "nemo_bridge"}
# Families of several documents, each measured at its own time: which, by what its citation holds.
_DOCUMENT: Final = re.compile(r"benchmarks/\S+\.md")
_APART: Final = ("torchtitan",)
_MIXED: Final = ("misc_repos", "papers", "threads")  # of several authors, too: by the first word of the citation

# Columns that say who measured what, when and by which links, and not what ran.
_NOT_RUN: Final = {
    *("id", "source", "source_family", "strict", "notes", "memory_metric", "release", "fits", *MEASURES),
    *("intra_node_link", "inter_node_link"),
}
# What notes say of who ran it, and when: file and system of a submission to MLPerf, dates of BigScience.
_WHO: Final = re.compile(r"Layout from .*?\)\.|MLPerf Training .*?, system .*?(?=Vocabulary|NeMo|LoRA|$)|date [\d-]+")


def source_of(row: TableRow) -> str:
    """The family of its sources, of those that are of one document the first.

    >>> source_of(TableRow({"source_family": "nemo_bridge2"}, {}, {}, ()))
    'nemo_bridge'
    """
    family = row.says("source_family")
    return ONE_DOCUMENT.get(family, family)


def document_of(row: TableRow) -> str:
    """The same, of families of several documents which it is.

    >>> document_of(TableRow({"source_family": "torchtitan", "source": "torchtitan repo benchmarks/llama3.md"}, {}, {}, ()))
    'benchmarks/llama3.md'
    >>> document_of(TableRow({"source_family": "papers", "source": "BloombergGPT (arXiv 2303.17564)"}, {}, {}, ()))
    'BloombergGPT'
    """
    family, source = source_of(row), row.says("source")
    named = _DOCUMENT.search(source) if family in _APART else None
    if named:
        return named[0]
    return source.split()[0] if family in _MIXED and source else family


def configuration_of(row: TableRow) -> tuple[str, ...]:
    """All that columns state of what ran."""
    return tuple(sorted(f"{name}={text}" for name, text in row.text.items() if text and name not in _NOT_RUN))


def told_software_of(row: TableRow) -> tuple[str, ...]:
    """All that is told of the software: stack, repository or round, release, and notes without who ran it."""
    return (software_of(row).stack, row.says("source").partition(" ")[0], release_of(row), _WHO.sub("", row.says("notes")).strip())


def run_of(row: TableRow) -> tuple[str, ...]:
    """What rows have in common that repeat one run: document, configuration, and all that is told of the software."""
    return (document_of(row), *configuration_of(row), *told_software_of(row))
