// Draws the control charts by uPlot in place of the pictures that the server drew; those stay for paper.
"use strict";
(() => {
  const holder = document.querySelector("[data-charts]");
  if (!holder || !window.uPlot) return;
  const drawings = [];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  const horizontal = (data, ewma) => (plot) => {
    const context = plot.ctx;
    const { left, width, top, height } = plot.bbox;
    const line = (from, to, name, dash, wide) => {
      context.strokeStyle = colour(name);
      context.setLineDash(dash.map((part) => part * devicePixelRatio));
      context.lineWidth = wide * devicePixelRatio;
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.stroke();
    };
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    if (data.limits) {
      const levels = ewma ? [["centre", "edge", []]] : [["centre", "edge", []], ["lower", "bad", [6, 4]], ["upper", "bad", [6, 4]]];
      for (const [key, name, dash] of levels) {
        const y = plot.valToPos(data.limits[key], "y", true);
        line([left, y], [left + width, y], name, dash, 1);
      }
    }
    for (const span of data.spans) {
      const from = plot.valToPos(span.first - 0.5, "x", true);
      context.globalAlpha = 0.14;
      context.fillStyle = colour("bad");
      context.fillRect(from, top, plot.valToPos(span.last + 0.5, "x", true) - from, height);
      context.globalAlpha = 1;
    }
    for (const event of data.events) {
      const x = plot.valToPos(event.place, "x", true);
      line([x, top], [x, top + height], "warn", [2, 3], 2);
    }
    context.restore();
  };

  const points = (chosen, name) => (plot, series, first, last) => {
    const context = plot.ctx;
    context.save();
    context.fillStyle = colour(name);
    for (const index of chosen) {
      if (index < first || index > last) continue;
      context.beginPath();
      context.arc(plot.valToPos(index, "x", true), plot.valToPos(plot.data[series][index], "y", true), 4 * devicePixelRatio, 0, 7);
      context.fill();
    }
    context.restore();
    return false;
  };

  const day = (data, index) => {
    const time = data.times[Math.round(index)];
    return time === undefined ? "" : new Date(time * 1000).toLocaleDateString("sv-SE");
  };

  function draw(figure, data) {
    const ewma = figure.dataset.chart === "ewma";
    const values = ewma ? data.ewma : data.values;
    if (!values.length) return;
    const place = document.createElement("div");
    place.className = "drawn";
    place.setAttribute("aria-hidden", "true");
    const legend = document.createElement("p");
    legend.className = "legend";
    legend.setAttribute("aria-hidden", "true");
    figure.classList.add("has-drawing");
    figure.prepend(place, legend);
    const rule = new Map([...data.late.map((index) => [index, "arrived late, not judged"]),
      ...data.violations.map((found) => [found.index, found.text])]);
    const axis = { stroke: () => colour("muted"), grid: { stroke: () => colour("line"), width: 1 }, ticks: { stroke: () => colour("line") } };
    const inner = { stroke: () => colour("accent"), width: 1.3, points: { show: true, size: 4, fill: () => colour("accent") } };
    const limit = { stroke: () => colour("bad"), width: 1, dash: [6, 4], points: { show: false } };
    const lines = ewma ? [{}, inner, limit, limit] : [{}, inner];
    const table = ewma ? [values.map((_, i) => i), values, data.lower, data.upper] : [values.map((_, i) => i), values];
    const marked = ewma ? [] : data.violations.map((found) => found.index);
    const around = ewma ? [...data.lower, ...data.upper] : data.limits ? [data.limits.lower, data.limits.upper] : [];
    const all = [...values, ...around].filter((value) => value !== null);
    const low = Math.min(...all), high = Math.max(...all), spare = (high - low) * 0.06 || 1;
    const rest = () => `${data.quantity}: ${values.length} series${data.spans.length ? `, ${data.spans.map((span) => span.text).join(", ")}` : ""}${marked.length ? `, ${marked.length} marked` : ""}. Drag to zoom, double-click for all, click a point to open its series.`;
    const plot = new uPlot({
      width: figure.clientWidth,
      height: 260,
      legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: (u, min, max) => [Math.min(low, min) - spare, Math.max(high, max) + spare] } },
      axes: [
        { ...axis, space: 90, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], values: (u, splits) => splits.map((index) => day(data, index)) },
        { ...axis, size: 64, values: (u, splits) => splits.map((value) => short(value)) },
      ],
      series: lines,
      hooks: {
        drawAxes: [horizontal(data, ewma)],
        draw: [(u) => { points(ewma ? [] : data.late, "muted")(u, 1, ...u.series[0].idxs); points(marked, "bad")(u, 1, ...u.series[0].idxs); }],
        setCursor: [(u) => {
          const i = u.cursor.idx;
          if (i === null || i === undefined || data.times[i] === undefined) { legend.textContent = rest(); return; }
          const when = new Date(data.times[i] * 1000).toLocaleString("sv-SE").slice(0, 16);
          legend.textContent = `${when}  ${data.quantity} ${short(data.values[i])}${data.unit === "1" ? "" : ` ${data.unit}`}`
            + (data.ewma[i] !== null ? `, EWMA ${short(data.ewma[i])}` : "") + (rule.has(i) ? `: ${rule.get(i)}` : "");
        }],
      },
    }, table, place);
    legend.textContent = rest();
    let pressed = 0;
    plot.over.addEventListener("mousedown", (event) => { pressed = event.clientX; });
    plot.over.addEventListener("mouseup", (event) => {
      const i = plot.cursor.idx;
      if (Math.abs(event.clientX - pressed) < 3 && i !== null && i !== undefined && data.series[i]) {
        location.href = holder.dataset.series + encodeURIComponent(data.series[i]);
      }
    });
    new ResizeObserver(() => plot.setSize({ width: figure.clientWidth, height: 260 })).observe(figure);
    drawings.push(plot);
  }

  fetch(holder.dataset.charts, { headers: { Accept: "application/json" }, credentials: "same-origin" })
    .then((answer) => (answer.ok ? answer.json() : Promise.reject(answer.status)))
    .then((data) => { for (const figure of holder.querySelectorAll("[data-chart]")) draw(figure, data); })
    .catch(() => { /* The pictures of the server stay. */ });

  const again = () => drawings.forEach((plot) => plot.redraw(false));
  document.addEventListener("qa:theme", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
})();
