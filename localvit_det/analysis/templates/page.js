// Clicks on the heads of tables sort them and clicks on pictures enlarge them; a choice hides the pictures without it.
// Everything can be read without.
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
      figure.hidden = chooser.value && !figure.dataset.tags.split("\n").includes(chooser.value);
  });
