"""The page around a brief: its style and nothing else. No script, no font, no request to anywhere."""

from __future__ import annotations

import html

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --panel: #f4f6f8; --rule: #d5dae0;
  --accent: #0b63c5; --good: #1a7f37; --warn: #9a5b00; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --paper: #14171b; --panel: #1e2329;
  --rule: #363d46; --accent: #6cb0ff; --good: #57c270; --warn: #e0a54a; --bad: #ff8577; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 54rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
.lead { font-size: 1.1rem; font-weight: 600; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }
p { margin: .6rem 0; } ul { margin: .6rem 0; padding-left: 1.25rem; } li { margin: .25rem 0; }
.verdict { border-left: .35rem solid var(--warn); background: var(--panel); padding: .8rem 1rem; }
.verdict strong { color: var(--warn); font-size: 1.2rem; letter-spacing: .02em; } .verdict ul { margin: .4rem 0 0; }
.verdict.healthy { border-color: var(--good); } .verdict.healthy strong { color: var(--good); }
.verdict.degrades { border-color: var(--bad); } .verdict.degrades strong { color: var(--bad); }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: .25rem; padding: .7rem .9rem;
  overflow-x: auto; font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; }
.table { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--rule); }
td:last-child { overflow-wrap: anywhere; min-width: 7rem; }
thead th { color: var(--soft); font-weight: 600; } tbody th { font-weight: 500; }
figure { margin: 1.2rem 0; } svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .3rem; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg text.label { fill: var(--ink); }
svg .grid { stroke: var(--rule); stroke-width: 1; opacity: .6; } svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .mark { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 2 4; }
svg polyline { fill: none; stroke-width: 2.25; stroke-linejoin: round; }
svg .a { stroke: var(--soft); stroke-dasharray: 6 5; } svg .b { stroke: var(--accent); }
svg .bar { fill: var(--rule); } svg .bar.on { fill: var(--accent); }
@media (max-width: 40rem) { body { padding: 1rem .9rem 3rem; } h1 { font-size: 1.3rem; } svg text { font-size: 20px; }
  table.wide, .wide tbody, .wide tr, .wide tbody th { display: block; } .wide thead { display: none; }
  .wide tr { border-bottom: 1px solid var(--rule); padding: .45rem 0; }
  .wide tbody th { border: 0; padding: 0; font-weight: 600; }
  .wide td { display: inline; border: 0; padding: 0; overflow-wrap: anywhere; }
  .wide td::before { content: attr(data-label) " "; color: var(--soft); }
  .wide td:not(:last-child)::after { content: " · "; color: var(--soft); } }
@media print { body { max-width: none; } pre, figure, tr { break-inside: avoid; } }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document; ``body`` is markup, ``title`` is text."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
