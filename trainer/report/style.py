"""The style sheet of every report page."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d1f24; --soft: #646973; --line: #e4e2dd;
  --right: #1a7f4b; --right-paper: #e4f4ea; --wrong: #b3372c; --wrong-paper: #fbe9e6;
  --first: #2b65c9; --second: #c9691c; --third: #7a4fb5; --fourth: #2a8a8f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15171b; --card: #1e2126; --ink: #e8e8e6; --soft: #9ba1ab; --line: #32363d;
  --right: #6fd39b; --right-paper: #1b3527; --wrong: #f28b80; --wrong-paper: #432320;
  --first: #7fa9f5; --second: #f0a868; --third: #bd9bea; --fourth: #6ccacf; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; margin: 0; }
h2 { font-size: 19px; letter-spacing: -0.01em; margin: 0 0 4px; }
section { margin-top: 44px; }
.subtitle, .note { color: var(--soft); margin: 6px 0 0; max-width: 75ch; overflow-wrap: anywhere; }
.note { margin: 0 0 16px; font-size: 14.5px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px; }
.tile b { display: block; font-size: 30px; line-height: 1.15; font-weight: 650;
  letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: 14px; }
.tile small { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
th, td { text-align: left; padding: 9px 18px; border-top: 1px solid var(--line);
  vertical-align: baseline; }
tr:first-child > * { border-top: 0; }
th { font-weight: 600; font-size: 13.5px; color: var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(228px, 1fr));
  gap: 16px; }
.gallery.square { grid-template-columns: repeat(auto-fill, minmax(188px, 1fr)); }
.gallery.square img, .gallery.square .nothing { aspect-ratio: 1; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; display: flex; flex-direction: column; }
figure img, figure .nothing { display: block; width: 100%; aspect-ratio: 4 / 3;
  object-fit: contain; background: var(--line); }
figure .nothing { display: grid; place-items: center; color: var(--soft); font-size: 14px; }
figcaption { padding: 14px 16px 16px; flex: 1; display: flex; flex-direction: column; }
figcaption p { margin: 0; font-size: 15px; font-weight: 550; line-height: 1.35;
  overflow-wrap: anywhere; }
figcaption .empty { color: var(--soft); font-weight: 400; font-style: italic; }
.verdict { align-self: flex-start; font-size: 12.5px; font-weight: 600; border-radius: 99px;
  padding: 1px 10px; margin-bottom: 8px; }
.verdict.right { color: var(--right); background: var(--right-paper); }
.verdict.wrong { color: var(--wrong); background: var(--wrong-paper); }
.references { margin-top: 10px; padding-top: 10px; font-size: 13.5px; line-height: 1.4;
  color: var(--soft); border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.references summary { cursor: pointer; margin-top: 2px; font-size: 12.5px; }
figcaption small { color: var(--soft); margin-top: auto; padding-top: 10px; font-size: 12px;
  overflow-wrap: anywhere; }
.curve { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px 18px 10px; }
.curve svg { display: block; width: 100%; height: auto; }
.curve text { fill: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.curve .grid { stroke: var(--line); stroke-width: 1; }
.curve .mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; }
.curve polyline { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round; }
.curve circle { stroke: var(--card); stroke-width: 1.5; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 14px; margin-bottom: 8px; }
.legend i { display: inline-block; width: 18px; height: 3px; border-radius: 2px;
  vertical-align: middle; margin-right: 8px; }
.series0 { stroke: var(--first); } .series1 { stroke: var(--second); }
.series2 { stroke: var(--third); } .series3 { stroke: var(--fourth); }
circle.series0, .legend .series0 { fill: var(--first); background: var(--first); }
circle.series1, .legend .series1 { fill: var(--second); background: var(--second); }
circle.series2, .legend .series2 { fill: var(--third); background: var(--third); }
circle.series3, .legend .series3 { fill: var(--fourth); background: var(--fourth); }
footer { margin-top: 56px; color: var(--soft); font-size: 13px; }
@media print { section { break-inside: avoid-page; } figure { break-inside: avoid; } }
"""
