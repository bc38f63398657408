"use strict";
// Sorting by a column's head, showing the runs that contain a text, and the difference of two ticked runs.
const value = (row, n) => {
  const cell = row.cells[n];
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  return cell.textContent === "-" ? null : cell.textContent;
};
const words = new Intl.Collator(undefined, { numeric: true });
const order = (a, b) =>
  a === null || b === null ? (a === null) - (b === null)
  : typeof a === "number" && typeof b === "number" ? a - b
  : words.compare(a, b);
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, n) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [value(row, n), row]);
    rows.sort((a, b) => a[0] === null || b[0] === null ? order(a[0], b[0]) : (down ? -1 : 1) * order(a[0], b[0]));
    body.append(...rows.map(pair => pair[1]));
  }));
}
const runs = document.querySelector("#runs"), filter = document.querySelector("#filter");
filter?.addEventListener("input", () => {
  for (const row of runs.tBodies[0].rows) row.hidden = !row.textContent.includes(filter.value);
});
const element = (tag, text, kind) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const compare = () => {
  const place = document.querySelector("#difference");
  place.replaceChildren();
  const ticked = [...runs.querySelectorAll("input:checked")];
  if (ticked.length !== 2) return;
  const { names, rows } = JSON.parse(document.querySelector("#details").textContent);
  const [a, b] = ticked.map(box => rows[Number(box.value)]);
  const paths = [a, b].map(row => row[names.indexOf("folder")]);
  const table = element("table"), body = element("tbody"), head = element("tr");
  head.append(element("th", "where they differ", "text"), element("th", "first", "text"), element("th", "second", "text"));
  names.forEach((name, n) => {
    if (JSON.stringify(a[n]) === JSON.stringify(b[n])) return;
    const row = element("tr");
    row.append(element("td", name, "text"), element("td", a[n] ?? "-", "text"), element("td", b[n] ?? "-", "text"));
    body.append(row);
  });
  table.append(element("thead"), body);
  table.tHead.append(head);
  const line = element("p", "Their weights, paths between them and modes: ");
  line.append(element("code", `wavebase compare ${paths.join(" ")}`));
  place.append(table, line);
};
runs?.addEventListener("change", event => {
  const ticked = [...runs.querySelectorAll("input:checked")];
  if (ticked.length > 2) ticked.find(box => box !== event.target).checked = false;
  compare();
});
