"""What makes a page readable on phones and desktops, dark and light; it asks nothing of any server."""

STYLE_SHEET = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #ffffff; --card: #f5f7fa; --line: #dde3ea;
  --accent: #2f7fd0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa6b5; --paper: #14181e; --card: #1d232b;
  --line: #303946; --accent: #6db1f2; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.5rem; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header { padding: 1.6rem 1rem 0; max-width: 72rem; margin: auto; }
h1 { font-size: 1.5rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
main { max-width: 72rem; margin: auto; padding: 0 1rem 3rem; }
section { margin-top: 2.2rem; }
p { margin: .5rem 0; max-width: 50rem; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .7rem; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tiles span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; max-height: 36rem; margin: .6rem 0; border: 1px solid var(--line); border-radius: .6rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .32rem .8rem; text-align: left; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
th { position: sticky; top: 0; background: var(--card); cursor: pointer; white-space: nowrap; font-weight: 600; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem; }
figure[hidden] { display: none; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; overflow-wrap: anywhere; }
figure img { cursor: zoom-in; }
figure.large { grid-column: 1 / -1; }
figure.large img { cursor: zoom-out; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.charts, .pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: .8rem;
  align-items: start; margin: .6rem 0; }
.charts .wide { grid-column: 1 / -1; max-width: 56rem; }
select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  padding: .1rem .4rem; }
@media print { nav, .chooser { display: none; } .scroll { max-height: none; } }
"""

# Clicks on the heads of tables sort them and clicks on pictures enlarge them; a choice hides the pictures without it.
# Everything can be read without.
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const cell = row => row.cells[column];
    if ([...body.rows].some(row => cell(row).className)) head.className = "number";
    head.addEventListener("click", () => {
      const down = head.ariaSort !== "descending";
      const value = row => cell(row).dataset.value ?? cell(row).textContent;
      const missing = row => value(row) === "";
      [...table.tHead.rows[0].cells].forEach(other => other.removeAttribute("aria-sort"));
      head.ariaSort = down ? "descending" : "ascending";
      [...body.rows]
        .sort((a, b) => missing(a) - missing(b) || (down ? -1 : 1) * (head.className
          ? value(a) - value(b) : value(a).localeCompare(value(b))))
        .forEach(row => body.append(row));
    });
  });
}
for (const image of document.images)
  image.addEventListener("click", () => image.parentElement.classList.toggle("large"));
for (const chooser of document.querySelectorAll(".chooser"))
  chooser.addEventListener("change", () => {
    for (const figure of chooser.closest("section").querySelectorAll("figure[data-tags]"))
      figure.hidden = chooser.value && !figure.dataset.tags.split("\\n").includes(chooser.value);
  });
"""
