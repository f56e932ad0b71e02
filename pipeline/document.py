"""A page of HTML that stands alone: pictures are inside of it, nothing is loaded, nothing runs."""

from __future__ import annotations

import base64
from html import escape
from string import Template

_DOCUMENT = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --paper: #f6f7f9; --card: #fff; --ink: #1d2127; --soft: #5d6673; --line: #e1e4e9; --best: #0b6bcb;
  --tint: #eef5fd; --good: #1a7f4b; --bad: #b42318; --late: #946200; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1d2127; --ink: #e7eaee; --soft: #9aa4b1;
  --line: #323842; --best: #6cb2f7; --tint: #20303f; --good: #5fd394; --bad: #ff8f85; --late: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 10px; }
p { margin: 0 0 10px; }
.soft, figcaption { color: var(--soft); }
section, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 18px 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figure.pair img { width: 100%; max-width: 900px; }
figcaption { margin-top: 8px; font-size: 14px; }
.figures { display: flex; flex-wrap: wrap; gap: 12px 36px; margin: 10px 0 14px; }
.figures div { min-width: 90px; }
.figures b { display: block; font-size: 21px; font-weight: 600; }
.figures span { color: var(--soft); font-size: 13px; }
pre { margin: 0; padding: 12px 14px; background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
td.wide { white-space: normal; min-width: 180px; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; padding-right: 20px; }
tr:last-child td { border-bottom: 0; }
tr.best td { background: var(--tint); font-weight: 600; }
tr.best td:first-child { color: var(--best); }
.finished { color: var(--good); } .failed, .killed { color: var(--bad); } .pruned { color: var(--late); }
</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def document(title: str, body: str) -> str:
    """The whole page; `body` is HTML."""
    return _DOCUMENT.substitute(title=escape(title), body=body)


def image(data: bytes, name: str, *, kind: str = "png") -> str:
    """A picture inside of the page; `kind` is png or jpeg."""
    return f'<img alt="{escape(name)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
