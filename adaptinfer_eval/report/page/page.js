// Sorting, filtering, and light or dark. The page is whole without any of it.
"use strict";

const byId = (id) => document.getElementById(id);

// Absent values stay last, whichever way a column is sorted.
function sortBy(table, index, ascending) {
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[index];
    if (!cell.classList.contains("number")) return cell.textContent.trim();
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : null;
  };
  const compare = (one, other) => {
    if (one === null || other === null) return (one === null) - (other === null);
    const order = typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true });
    return ascending ? order : -order;
  };
  const rows = [...body.rows].map((row) => [key(row), row]);
  rows.sort(([one], [other]) => compare(one, other));
  body.append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, index, ascending);
    });
  });
}

// A row without a budget (vanilla) stays when a budget is chosen: it is what the others are compared with.
function makeFilter(form) {
  const items = [...byId(form.dataset.for).querySelectorAll("[data-item]")];
  const update = () => {
    let shown = 0;
    for (const item of items) {
      const fits = [...form.elements].every(({ name, value }) => {
        if (!name || !value) return true;
        if (name === "text") return item.textContent.toLowerCase().includes(value.trim().toLowerCase());
        return item.dataset[name] === value || (name === "budget" && item.dataset.budget === "");
      });
      item.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${items.length}`;
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  update();
}

function makeTheme(button) {
  const root = document.documentElement;
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => { button.textContent = dark ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => {
    dark = !dark;
    root.style.colorScheme = dark ? "dark" : "light";
    label();
  });
  button.hidden = false;
  label();
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("form.filters").forEach(makeFilter);
makeTheme(byId("theme"));
