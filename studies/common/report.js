"use strict";

function compare(x, y) {
  return typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
}

class SortedTable {
  constructor(place) {
    this.body = place.querySelector("tbody");
    this.heads = [...place.querySelectorAll("th")];
    const data = place.querySelector('script[type="application/json"]');
    const all = data ? JSON.parse(data.textContent) : null;
    this.rows = all ? all.rows.map((row) => this.unpack(row)) : [...this.body.rows].map((line) => this.read(line));
    this.page = all ? all.page : this.rows.length;
    this.first = 0;
    for (const [column, head] of this.heads.entries()) this.addButton(head, column);
    if (all) this.addPages(place);
  }

  // A row is a list of cells, a cell its text and what it sorts by: a number in a column of numbers, or "" for none.
  read(line) {
    return [...line.cells].map((cell, column) => {
      const text = cell.textContent;
      return [text, this.key(cell.dataset.key ?? text, column)];
    });
  }

  unpack(row) {
    return row.map((cell, column) => (typeof cell === "string" ? [cell, this.key(cell, column)] : cell));
  }

  key(text, column) {
    return this.heads[column].className === "n" && text !== "" ? Number(text) : text;
  }

  addButton(head, column) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => this.sort(column));
    head.append(button);
  }

  addPages(place) {
    const bar = document.createElement("div");
    bar.className = "pages";
    this.back = document.createElement("button");
    this.next = document.createElement("button");
    this.back.textContent = "Previous";
    this.next.textContent = "Next";
    this.where = document.createElement("span");
    this.where.setAttribute("role", "status");
    for (const [button, step] of [[this.back, -1], [this.next, 1]]) {
      button.type = "button";
      button.addEventListener("click", () => { this.first += step * this.page; this.show(); });
    }
    bar.append(this.back, this.next, this.where);
    const rest = place.querySelector(".rest");
    rest.hidden = true;
    rest.after(bar);
    this.rest = rest;
    this.show();
  }

  sort(column) {
    const head = this.heads[column], up = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row[column][1];
    const full = this.rows.filter((row) => key(row) !== ""), empty = this.rows.filter((row) => key(row) === "");
    full.sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b)));
    this.rows = [...full, ...empty];
    for (const other of this.heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    this.first = 0;
    this.show();
  }

  show() {
    const shown = this.rows.slice(this.first, this.first + this.page);
    this.body.replaceChildren(...shown.map((row) => {
      const line = document.createElement("tr");
      for (const [column, [text]] of row.entries()) {
        const cell = line.insertCell();
        cell.className = this.heads[column].className;
        cell.textContent = text;
      }
      return line;
    }));
    if (!this.where) return;
    const count = this.rows.length, last = this.first + shown.length, number = (value) => value.toLocaleString("en");
    this.where.textContent = `rows ${number(this.first + 1)} to ${number(last)} of ${number(count)}`;
    this.rest.firstChild.textContent = this.rest.firstChild.textContent.replace(
      /^Rows [\d,]+ to [\d,]+/, `Rows ${number(this.first + 1)} to ${number(last)}`);
    this.back.disabled = this.first === 0;
    this.next.disabled = last === count;
  }
}

for (const place of document.querySelectorAll(".table")) new SortedTable(place);

// Pages on small screens begin with the text, not with a list of contents.
if (matchMedia("(max-width: 40rem)").matches) document.querySelector("nav details").open = false;

const toggle = document.getElementById("theme"), root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const remembered = {
  // A page opened as a file may be denied storage; the theme then lasts as long as the page.
  get() { try { return localStorage.getItem("bittaper-theme"); } catch { return null; } },
  set(name) { try { localStorage.setItem("bittaper-theme", name); } catch { /* not kept */ } },
};
function isDark() { return (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark"; }
function label() { toggle.textContent = isDark() ? "Light theme" : "Dark theme"; }
const kept = remembered.get();
if (kept) root.dataset.theme = kept;
toggle.hidden = false;
toggle.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remembered.set(root.dataset.theme);
  label();
});
system.addEventListener("change", label);
label();
