"""How the page looks, by day and by night."""

from __future__ import annotations

__all__ = ["CSS"]

CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --dim: #59636e; --ground: #f6f8fa; --card: #fff; --line: #d0d7de;
  --right: #00664b; --right-ground: #e3f5ee; --wrong: #b3261e; --wrong-ground: #fdeceb; --link: #0a58ca; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa5b1; --ground: #0d1117; --card: #161b22;
  --line: #30363d; --right: #56d4a5; --right-ground: #0f2d24; --wrong: #ff8f87; --wrong-ground: #3a1513;
  --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 80px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h2::first-letter, .layer::first-letter { text-transform: uppercase; }
p { max-width: 110ch; margin: 8px 0; }
a { color: var(--link); }
code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.dim { color: var(--dim); }
.sum { display: flex; flex-wrap: wrap; gap: 10px 26px; align-items: center; margin: 14px 0 6px; }
.verdict { font-size: 17px; font-weight: 650; padding: 5px 14px; border-radius: 999px; border: 1px solid; }
.right.verdict { color: var(--right); background: var(--right-ground); }
.wrong.verdict { color: var(--wrong); background: var(--wrong-ground); }
dl.facts { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0; }
dl.facts div { display: flex; gap: 6px; }
dl.facts dt { color: var(--dim); }
dl.facts dd { margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; padding: 0; margin: 10px 0; }
.chip { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 4px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: 10px 14px 0; color: var(--dim); }
th, td { text-align: left; padding: 6px 14px; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; }
th { font-weight: 600; }
tbody th[scope=row] { font-weight: 400; }
th.layer { background: var(--ground); color: var(--dim); font-size: 13px; padding: 4px 14px; }
a.square { display: block; color: inherit; text-decoration: none; white-space: nowrap; border-radius: 6px;
  margin: -3px -8px; padding: 3px 8px; }
a.square:hover, a.square:focus-visible { background: var(--ground); outline: 2px solid var(--link); }
a.wrong.square { background: var(--wrong-ground); }
.mark { font-weight: 700; display: inline-block; width: 1.3em; }
.mark.yes { color: var(--right); }
.mark.no, ul.complaints { color: var(--wrong); }
details { border: 1px solid var(--line); border-radius: 10px; background: var(--card); margin: 8px 0; }
details.wrong { border-color: var(--wrong); }
details > p { padding: 0 16px; }
summary { cursor: pointer; padding: 8px 16px; display: flex; flex-wrap: wrap; gap: 2px 20px; align-items: baseline; }
summary code { flex: 1 1 min(24em, 100%); overflow-wrap: anywhere; }
summary > span { flex: 0 1 min(19em, 100%); }
.part { padding: 2px 16px 16px; scroll-margin-top: 60px; }
.part:target { outline: 2px solid var(--link); outline-offset: -2px; border-radius: 8px; }
h3 { font-size: 15px; margin: 8px 0 2px; }
.reads { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr)); gap: 14px; }
figure { margin: 6px 0 0; min-width: 0; }
figcaption { margin-bottom: 6px; color: var(--dim); }
figcaption b { color: var(--ink); font-weight: 600; }
ul.complaints { margin: 8px 0; padding-left: 20px; font-weight: 600; }
.track { position: relative; height: 26px; background: var(--ground); border-radius: 4px; }
.track span { position: absolute; top: 0; height: 100%; border-radius: 4px; }
.track .due { border-left: 2px dashed var(--ink); border-radius: 0; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media print { details { break-inside: avoid; } }
"""
