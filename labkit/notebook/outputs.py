"""Outputs of a cell: cleaned when they are recorded, and compared when they are checked."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest

from labkit._replay import steady
from labkit.notebook.book import Output

__all__ = ["PICTURE", "UNCOMPARED", "cleaned", "difference", "merged", "picture_text", "pictured", "printed"]

UNCOMPARED = ("image/png", "image/jpeg")
"""Their bytes depend on the machine; nbval leaves them out."""
WIDGET = "application/vnd.jupyter.widget-view+json"
"""A widget's identity, random on each run."""
PICTURE = re.compile(r"data:image/svg\+xml;base64,([\w+/=\s]+)")
_EMBEDDED = re.compile(r"(data:[\w/+.-]+;base64,[\w+/=\s]+)")
_MOST = 70


def merged(outputs: Iterable[Output]) -> list[Output]:
    """The outputs with each stream as one: in how many pieces it arrives differs from run to run."""
    kept: dict[object, Output] = {}
    for i, output in enumerate(outputs):
        name = output.get("name") if output["output_type"] == "stream" else i
        if name in kept:
            kept[name]["text"] += output["text"]
        else:
            kept[name] = type(output)(output)
    return list(kept.values())


def cleaned(output: Output) -> None:
    """Hides in an output what differs from run to run, as `steady` does; pictures are left as they are."""
    if "data" in output:
        output["data"] |= {
            kind: _around_pictures(steady, value)
            for kind, value in output["data"].items()
            if kind.startswith("text/") and isinstance(value, str)
        }
    for key in ("text", "evalue"):
        if key in output:
            output[key] = steady(output[key])
    if "traceback" in output:
        output["traceback"] = [steady(line) for line in output["traceback"]]


def pictured(output: Output) -> bool:
    """Whether the output is or contains a picture."""
    data = output.get("data", {})
    html = str(data.get("text/html", ""))
    return any(kind.startswith("image/") for kind in data) or "<img" in html or "<svg" in html


def printed(outputs: Iterable[Output], stream: str) -> str:
    """What the cell wrote to "stdout" or "stderr"."""
    return "".join(output["text"] for output in outputs if output.get("name") == stream)


def picture_text(svg: str) -> str:
    """The text of an SVG picture without its metadata, and with its identities numbered: some libraries draw them."""
    bare = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    names = dict.fromkeys(re.findall(r'\bid="([^"]+)"', bare))
    numbered = {name: f"id{number}" for number, name in enumerate(names, 1)}
    return re.sub(r'(?<=["#])[^"#()\s]+(?=[")])', lambda found: numbered.get(found[0], found[0]), bare)


def difference(recorded: Iterable[Output], shown: Iterable[Output]) -> str | None:
    """How what a cell shows differs from what is recorded; None if it does not. As in nbval, only the order of outputs
    of the same kind matters.
    """
    before, now = _by_kind(recorded), _by_kind(shown)
    for kind in dict.fromkeys([*before, *now]):
        for old, new in zip_longest(before.get(kind, ()), now.get(kind, ())):
            if new is None:
                return f"no longer shows the {kind} {_clip(old, '')}"
            if old is None:
                return f"shows the {kind} {_clip(new, '')} in addition to what is recorded"
            if old != new:
                return _said(kind, old, new)
    return None


def _by_kind(outputs: Iterable[Output]) -> dict[str, list[str]]:
    """What is compared, by stream or media type."""
    found: dict[str, list[str]] = {}
    for output in merged(outputs):
        if output["output_type"] == "stream":
            parts = {output["name"]: steady(output["text"])}
        elif output["output_type"] == "error":
            parts = {"error": steady(f"{output['ename']}: {output['evalue']}")}
        else:
            parts = {kind: _compared(kind, value) for kind, value in output["data"].items() if kind != WIDGET}
        for kind, value in parts.items():
            found.setdefault(kind, []).append(value)
    return found


def _compared(kind: str, value: object) -> str:
    if kind in UNCOMPARED:
        return ""
    if kind == "image/svg+xml":
        return picture_text(str(value))
    shown = _around_pictures(steady, str(value))
    return PICTURE.sub(lambda found: picture_text(b64decode(found[1]).decode()), shown)


def _around_pictures(change: Callable[[str], str], text: str) -> str:
    """`text` changed everywhere but in embedded files, whose Base64 may look like anything."""
    return "".join(part if i % 2 else change(part) for i, part in enumerate(_EMBEDDED.split(text)))


def _said(kind: str, old: str, new: str) -> str:
    what = "another picture, with " if "<svg" in old and "<svg" in new else ""
    for was, now in zip_longest(_lines(old), _lines(new), fillvalue=""):
        if was != now:
            return f"shows {what}{_clip(now, was)} where {_clip(was, now)} is recorded"
    return f"shows the {kind} with other line ends than recorded"


def _lines(text: str) -> Iterator[str]:
    """Lines, and the elements of HTML and SVG as lines of their own."""
    return (line for line in re.split(r"\n|(?<=>)(?=.)", text))


def _clip(text: str, other: str) -> str:
    """At most `_MOST` characters of `text`, from shortly before it differs from `other`."""
    same = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = max(same - _MOST // 2, 0) if len(text) > _MOST else 0
    part = text[start : start + _MOST]
    return repr(("…" if start else "") + part + ("…" if start + _MOST < len(text) else "")) if text else "nothing"
