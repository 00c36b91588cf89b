"""The report as JUnit's XML, which CI servers show. It has no schema of its own; this is what they all read.

Source: the elements and attributes that Jenkins, GitLab and GitHub's reporters document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree

from labkit.matrix.outcome import Outcome, Outcomes

__all__ = ["junit_xml"]

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def junit_xml(report: Outcomes) -> bytes:
    """A suite per kind of server, and a test case per cell; times are in seconds."""
    root = ElementTree.Element("testsuites", _suite("labkit matrix", report.cells, report.elapsed))
    for backend, group in groupby(report.cells, key=lambda outcome: outcome.cell.backend):
        cells = list(group)
        took = sum(outcome.elapsed for outcome in cells)
        suite = ElementTree.SubElement(root, "testsuite", _suite(backend, cells, took))
        for outcome in cells:
            cell = outcome.cell
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"{backend}.{cell.layer}", name=cell.title, time=f"{outcome.elapsed:.3f}"
            )
            if outcome.complaints:
                texts = [
                    _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(complaint)) for complaint in outcome.complaints
                ]
                failure = ElementTree.SubElement(case, "failure", type=outcome.complaints[0].kind, message=texts[0])
                told = [line for title, lines in outcome.evidence for line in (f"{title}:", *lines)]
                failure.text = "\n".join([cell.summary, *texts, *told])
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _suite(name: str, cells: Sequence[Outcome], seconds: float) -> dict[str, str]:
    wrong = sum(not outcome.right for outcome in cells)
    return {
        "name": name,
        "tests": str(len(cells)),
        "failures": str(wrong),
        "errors": "0",
        "skipped": "0",
        "time": f"{seconds:.3f}",
    }
