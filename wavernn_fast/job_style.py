"""Style sheet of the job report: light, dark, narrow and on paper."""

STYLE = """
:root { --page: #f6f7f9; --card: #ffffff; --ink: #1b2430; --soft: #5b6775; --line: #d8dee6;
  --bar: #2f6fab; --good: #2e8555; --bad: #c2410c; --rest: #c3ccd6; --open: #8a6100;
  --engine: #2f6fab; --conditioning: #2a9d8f; --waiting: #e0a030; --other: #a3adb8; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6eaf0;
  --soft: #9aa7b5; --line: #323b47; --bar: #6aaef0; --good: #4fbf85; --bad: #fb8a4c;
  --rest: #465261; --open: #e8b84a; --engine: #6aaef0; --conditioning: #4cc3b4; --waiting: #e8b84a;
  --other: #6c7988; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 40px; display: grid; gap: 16px;
  grid-template-columns: minmax(0, 1fr); }
h1 { margin: 0; font-size: 24px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: 16px; }
p { margin: 0 0 10px; }
header .state { margin: 4px 0 12px; color: var(--soft); }
.state.good { color: var(--good); } .state.bad { color: var(--bad); }
.state.open { color: var(--open); }
section:not(.charts), figure, .tiles > div { background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 16px; margin: 0; }
.tiles { display: grid; gap: 12px; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tiles > div { padding: 12px 14px; display: flex; flex-direction: column; }
.tiles dt { order: 2; color: var(--soft); font-size: 13px; }
.tiles dd { order: 1; margin: 0; font-size: 23px; font-weight: 600; line-height: 1.3;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles dd.note { order: 3; font-size: 13px; font-weight: 400; white-space: normal; }
.note, figcaption, footer { color: var(--soft); font-size: 13px; }
section > .note { margin: 10px 0 0; }
.charts { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(310px, 100%), 1fr)); }
figure svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); font-family: inherit; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .mark { stroke: var(--bad); stroke-dasharray: 3 3; }
svg .bar { fill: var(--bar); }
.stack { display: block; width: 100%; height: 22px; border-radius: 4px; background: var(--rest); }
.good { fill: var(--good); } .bad { fill: var(--bad); } .rest { fill: var(--rest); }
.engine { fill: var(--engine); } .conditioning { fill: var(--conditioning); }
.waiting { fill: var(--waiting); } .other { fill: var(--other); }
i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
i.good { background: var(--good); } i.bad { background: var(--bad); }
i.rest { background: var(--rest); } i.engine { background: var(--engine); }
i.conditioning { background: var(--conditioning); } i.waiting { background: var(--waiting); }
i.other { background: var(--other); }
.legend { display: flex; gap: 18px; margin: 8px 0 0; padding: 0; list-style: none;
  color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
section .stack { margin-bottom: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
td { overflow-wrap: anywhere; min-width: 8em; }
td.t { white-space: nowrap; overflow-wrap: normal; min-width: 0; padding-right: 24px; }
.time table { width: auto; }
td.n, th.n { text-align: right; min-width: 0; padding-left: 14px;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
@media (min-width: 900px) { .failures td:first-child, .failures td:last-child { min-width: 15em; } }
@media (max-width: 600px) { main { padding: 16px 12px 32px; } body { font-size: 14px; }
  section:not(.charts), figure { padding: 12px; } table { font-size: 13px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tiles dd { font-size: 20px; } }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
  --bar: #2f6fab; --good: #2e8555; --bad: #c2410c; --rest: #c3ccd6; --open: #8a6100;
  --engine: #2f6fab; --conditioning: #2a9d8f; --waiting: #e0a030; --other: #a3adb8; }
  body { font-size: 11px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { padding: 0; max-width: none; display: block; }
  main > * { margin-bottom: 10px !important; }
  .note, .tiles dd.note, .tiles dt, .legend, figcaption, footer { font-size: 10px; }
  h1 { font-size: 18px; } h2 { font-size: 13px; break-after: avoid; }
  .failures p { break-after: avoid; }
  .tiles { grid-template-columns: repeat(6, 1fr); } .tiles dd { font-size: 16px; }
  .charts { grid-template-columns: repeat(3, 1fr); }
  figure, tr, .tiles, .stack { break-inside: avoid; }
  thead { display: table-header-group; } table { font-size: 10px; } .wide { overflow: visible; } }
"""
