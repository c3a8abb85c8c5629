"use strict";
/* Draws the charts of report.html, and makes its tables, filters and theme work.

   Opened with #selftest, the page tries its own controls once and writes what it found, as JSON,
   into <output id="selftest">: charts drawn, what the filters and choices hide, the order after a
   sort, and the theme after a click on its button. The tests read it. */
(() => {
  let charts = [];
  const PAPER = 640;  // pixels
  let isPaper = false;
  const hidden = { design: new Set(), label: new Set() };
  const all = (what, inside = document) => [...inside.querySelectorAll(what)];
  const place = (chart) => document.getElementById(chart.key);

  // --- theme ---------------------------------------------------------------------------------
  const probe = document.createElement("i");
  probe.hidden = true;
  document.body.append(probe);
  const themed = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const colour = (text) => {
    const [name, opacity] = text.slice(1).split("/");
    const found = themed(name);
    return opacity ? found.replace("rgb(", "rgba(").replace(")", `, ${opacity})`) : found;
  };
  const coloured = (value) => {
    if (typeof value === "string") return /^@[a-z0-9]+(\/|$)/.test(value) ? colour(value) : value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, x]) => [key, coloured(x)]));
  };
  const isDark = () => {
    const chosen = document.documentElement.style.colorScheme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const button = document.getElementById("theme");
  const nameButton = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.style.colorScheme = isDark() ? "light" : "dark";
    nameButton();
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    nameButton();
    drawAll();
  });

  // --- charts --------------------------------------------------------------------------------
  const chosen = (chart) => Object.fromEntries(
    chart.selects.map((name) => [
      name, place(chart).closest("figure").querySelector(`[data-select="${name}"]`).value,
    ]),
  );
  const visible = (chart, trace) => {
    const meta = trace.meta || {};
    const picks = chosen(chart);
    if (Object.keys(picks).some((name) => name in meta && meta[name] !== picks[name])) return false;
    if (!("design" in picks) && hidden.design.has(meta.design)) return false;
    return trace.visible ?? true;
  };
  const axis = (own) => ({
    gridcolor: themed("line"), zerolinecolor: themed("line"), linecolor: themed("soft"),
    automargin: true, ...own, title: { font: { size: 12 }, ...(own && own.title) },
  });
  const layoutOf = (chart) => {
    const own = coloured(chart.layout);
    const isNarrow = place(chart).clientWidth < 520;
    return {
      ...own, xaxis: axis(own.xaxis), yaxis: axis(own.yaxis),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: themed("ink"), size: isNarrow ? 11 : 12, family: "inherit" },
      margin: { l: 50, r: 12, t: 34, b: 48 }, ...(isPaper ? { width: PAPER } : { autosize: true }),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: themed("soft"), activecolor: themed("link") },
      legend: { orientation: "h", yanchor: "top", y: isNarrow ? -0.24 : -0.2, x: 0 },
      hoverlabel: { bgcolor: themed("card"), bordercolor: themed("soft"), font: { color: themed("ink") } },
    };
  };
  const options = {
    responsive: true, displaylogo: false, displayModeBar: true,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const draw = (chart) => {
    if (!window.Plotly || place(chart).closest("[hidden]")) return;
    const data = chart.data.map((trace) => ({ ...coloured(trace), visible: visible(chart, trace) }));
    Plotly.react(place(chart), data, layoutOf(chart), options);
  };
  const drawAll = () => charts.forEach(draw);
  const listen = (chart) => all("[data-select]", place(chart).closest("figure")).forEach((select) =>
    select.addEventListener("change", () => draw(chart)));

  // --- filters -------------------------------------------------------------------------------
  const filter = () => {
    for (const box of all("[data-filter]")) {
      hidden[box.dataset.filter][box.checked ? "delete" : "add"](box.value);
    }
    for (const row of all("tr[data-design], .glance-row")) row.hidden = hidden.design.has(row.dataset.design);
    for (const part of all("[data-label]")) part.hidden = hidden.label.has(part.dataset.label);
    drawAll();
  };
  all("[data-filter]").forEach((box) => box.addEventListener("change", filter));

  // --- tables --------------------------------------------------------------------------------
  const sortKey = (row, i) => {
    const cell = row.cells[i];
    return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
  };
  const before = (a, b) => (typeof a === "number") - (typeof b === "number") ||
    (typeof a === "number" ? a - b : a.localeCompare(b));
  const sort = (head) => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const body = head.closest("table").tBodies[0];
    all("th", head.parentElement).forEach((x) => x.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].sort((a, b) =>
      (up ? 1 : -1) * before(sortKey(a, head.cellIndex), sortKey(b, head.cellIndex)));
    body.append(...rows);
  };
  all("table.sortable th button").forEach((x) =>
    x.addEventListener("click", () => sort(x.closest("th"))));

  // the numbers of a chart, made when its table is opened
  const plain = (text) => {
    const names = { "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&amp;": "&" };
    return String(text).replace(/&(lt|gt|quot|#x27|amp);/g, (x) => names[x]);
  };
  const line = (kind, cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text) => {
      const cell = document.createElement(kind);
      if (kind === "th") cell.scope = "col";
      cell.textContent = text;
      return cell;
    }));
    return row;
  };
  const boxes = ["lowerfence", "q1", "median", "q3", "upperfence", "mean"];
  const numbers = (chart) => {
    const isBox = chart.data.some((trace) => trace.type === "box");
    const out = [line("th", isBox ? ["", ...boxes] : ["", "x", "y"])];
    for (const trace of chart.data) {
      if ((trace.meta && trace.meta.band) || !visible(chart, trace)) continue;
      const name = (i) => plain(trace.name) + (trace.text ? `, ${plain(trace.text[i])}` : "");
      if (isBox) out.push(line("td", [name(0), ...boxes.map((key) => trace[key][0])]));
      else if (trace.z) trace.z.forEach((row, i) => row.forEach((z, j) =>
        out.push(line("td", [`${name(0)} ${z}`, plain(trace.x[j]), plain(trace.y[i])]))));
      else trace.x.forEach((x, i) => out.push(line("td", [name(i), plain(x), plain(trace.y[i])])));
    }
    return out;
  };
  const fill = (part) => {
    const chart = charts.find((x) => x.key === part.dataset.of);
    all(".wide", part).forEach((x) => x.remove());
    if (!part.open || !chart) return;
    const frame = document.createElement("div");
    frame.className = "wide";
    const table = document.createElement("table");
    table.append(...numbers(chart));
    frame.append(table);
    part.append(frame);
  };
  all("details[data-of]").forEach((x) => x.addEventListener("toggle", () => fill(x)));

  // --- print: light, as wide as paper ---------------------------------------------------------
  let schemeBefore = "";
  addEventListener("beforeprint", () => {
    schemeBefore = document.documentElement.style.colorScheme;
    document.documentElement.style.colorScheme = "light";
    isPaper = true;
    drawAll();
  });
  addEventListener("afterprint", () => {
    document.documentElement.style.colorScheme = schemeBefore;
    isPaper = false;
    drawAll();
  });

  const selftest = () => {
    const drawn = () => all(".chart svg.main-svg").length;
    const shown = () => all(".chart").flatMap((x) => x.data || []).filter((t) => t.visible === true).length;
    const found = { charts: charts.length, drawn: all(".chart").filter((x) => x.querySelector("svg.main-svg")).length };
    found.svgs = drawn();
    found.shown = shown();
    for (const what of ["design", "label"]) {
      const box = all(`[data-filter="${what}"]`)[0];
      if (!box) continue;
      box.click();
      found[what] = { value: box.value, shown: shown(), hidden: all(`[hidden][data-${what}]`).length };
      box.click();
      found[what].again = shown();
    }
    const select = all('[data-select="metric"]')[0];
    if (select) {
      select.selectedIndex = 1;
      select.dispatchEvent(new Event("change"));
      const div = select.closest("figure").querySelector(".chart");
      found.metrics = [...new Set(div.data.filter((t) => t.visible === true).map((t) => t.meta.metric))];
    }
    const head = all("table.sortable th:nth-child(3)")[0];
    if (head) {
      head.querySelector("button").click();
      found.sorted = all("tbody tr", head.closest("table")).map((row) => sortKey(row, 2));
      found.sort = head.getAttribute("aria-sort");
    }
    const opened = all("details[data-of]")[0];
    if (opened) {
      opened.open = true;
      fill(opened);
      found.numbers = all("tr", opened).length;
    }
    const dark = isDark();
    button.click();
    found.theme = dark !== isDark();
    button.click();
    const out = document.getElementById("selftest");
    out.textContent = JSON.stringify(found);
  };

  // --- the charts and Plotly, which are most of the page, and compressed ------------------------
  const unpacked = (id) => {
    const packed = document.getElementById(id).textContent;
    const bytes = Uint8Array.from(atob(packed), (x) => x.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };
  const start = async () => {
    if (!document.getElementById("charts-data")) return;
    charts = JSON.parse(await unpacked("charts-data"));
    charts.forEach(listen);
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.body.append(script);
  };
  const complain = () => {
    all(".no-charts").forEach((x) => { x.hidden = false; });
    all(".figures").forEach((x) => { x.hidden = true; });
  };

  nameButton();
  start().then(drawAll, complain).then(() => {
    if (location.hash === "#selftest") selftest();
  });
})();
