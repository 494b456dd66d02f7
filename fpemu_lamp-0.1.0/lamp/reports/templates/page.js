"use strict";
// Everything is there without this: it sorts, filters, picks out and switches between light and dark.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

function made(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function wrapped(parent) {
  const button = made("button", { type: "button" });
  button.append(...parent.childNodes);
  parent.append(button);
  return button;
}

function key(row, column) {
  const cell = row.cells[column];
  return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent;
}

function compared(a, b) {
  if (typeof a === "string") return a.localeCompare(b, "en", { numeric: true });
  return a < b ? -1 : a > b ? 1 : 0;
}

// NaN comes last whichever way one sorts.
function sort(table, column, way) {
  const rows = all("tbody tr", table).map((row) => [key(row, column), row]);
  const order = ([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || way * compared(a, b);
  table.tBodies[0].append(...rows.sort(order).map(([, row]) => row));
}

for (const table of all("table.runs, table.compared")) {
  if (table.tBodies[0].rows.length < 2) continue;
  const heads = all("th", table);
  heads.forEach((head, column) => {
    wrapped(head).addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table, column, up ? 1 : -1);
    });
  });
  const words = made("input", { type: "search", className: "filter", placeholder: "Filter rows" });
  words.setAttribute("aria-label", "show only rows that have these words");
  words.addEventListener("input", () => {
    const wanted = words.value.toLowerCase().split(/\s+/);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
    }
  });
  table.parentNode.before(words);
}

for (const charts of all(".charts")) {
  const buttons = all("[data-pick]", charts).map((item) => {
    const button = wrapped(item);
    button.title = "only these";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.ariaPressed !== "true"));
      pick();
    });
    return [button, item.dataset.pick];
  });
  // Marks stay if their machine is picked, or none is; and the same for rules.
  function pick() {
    const picked = buttons.filter(([button]) => button.ariaPressed === "true").map(([, name]) => name);
    const groups = ["m", "r"].map((kind) => picked.filter((name) => name[0] === kind));
    charts.classList.toggle("picked", picked.length > 0);
    for (const shape of all(".chart [class*=' m']", charts)) {
      const has = (name) => shape.classList.contains(name);
      const out = groups.some((names, i) => names.length && !names.some(has) && (i === 0 || shape.matches(".mark, .bar")));
      shape.classList.toggle("dim", out);
    }
  }
}

const theme = document.getElementById("theme");
const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const named = () => (theme.textContent = dark() ? "Light" : "Dark");
theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  named();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", named);
named();
