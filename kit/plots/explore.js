// Draws a figure that a reader looks into: by mouse, touch or keys, with no network and no library.
// Called with the id of an element and the data of kit/plots/explore.py, in a notebook, in Voilà
// and in a saved page alike. Until it runs, and where scripts are off, the element has a picture.
(id, data) => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const root = document.querySelector(`#${id}:not([data-drawn])`); // the same figure may come twice
  if (!root) return;
  root.setAttribute("data-drawn", "");

  const make = (parent, tag, attributes = {}, text) => {
    const inSvg = tag === "svg" || parent.namespaceURI === SVG;
    const node = inSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const short = (value) => String(Number(value.toPrecision(3)));
  const time = (ms) => {
    const size = Math.abs(ms);
    if (size >= 1000) return `${short(ms / 1000)} s`;
    return size >= 1 || size === 0 ? `${short(ms)} ms` : `${short(ms * 1000)} µs`;
  };
  // On a dark page a colour is a third of the way to white, as in the report.
  const channels = (colour) => colour.match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  const shade = (colour) => {
    const text = getComputedStyle(root).color.match(/[\d.]+/g).slice(0, 3).map(Number);
    if (text.reduce((sum, part) => sum + part) < 384) return colour;
    return `rgb(${channels(colour.slice(1)).map((part) => Math.round(part + (255 - part) / 3))})`;
  };
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

  // JupyterLab takes keys such as b for commands unless what has the focus itself says no.
  const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

  const LEFT = 58, RIGHT = 14, TOP = 8, BOTTOM = 40, HEIGHT = 380;
  const state = { view: [...data.range], hidden: new Set(), log: data.log, picked: null, top: 0 };
  let width = 0;

  root.replaceChildren();
  make(root, "div", { class: "kit-explore-title" }, data.title);
  const bar = make(root, "div", { class: "kit-explore-bar", role: "toolbar", "aria-label": "View" });
  const svg = make(root, "svg", { ...OWN_KEYS, role: "img", tabindex: "0", "aria-label": data.title,
    "aria-describedby": `${id}-said` });
  const said = make(root, "div", { class: "kit-explore-said", id: `${id}-said`, role: "status" });
  make(root, "div", { class: "kit-explore-note kit-explore-keys" }, data.keys);
  make(root, "div", { class: "kit-explore-note" }, data.note);

  const button = (text, label, act) => {
    const node = make(bar, "button",
      { ...OWN_KEYS, type: "button", "aria-label": label, title: label }, text);
    node.addEventListener("click", () => { act(node); draw(); });
    return node;
  };

  // The axis from left to right.
  const inner = () => width - LEFT - RIGHT;
  const bend = (value) => (state.log ? Math.log10(value) : value);
  const unbend = (value) => (state.log ? 10 ** value : value);
  const toX = (value) => {
    const [low, high] = state.view.map(bend);
    return LEFT + (inner() * (bend(value) - low)) / (high - low);
  };
  const toValue = (x) => {
    const [low, high] = state.view.map(bend);
    return unbend(low + ((high - low) * (x - LEFT)) / inner());
  };
  const look = (low, high) => {
    const [first, last] = data.range.map(bend);
    const wide = clamp(high - low, (last - first) / 5000, last - first);
    const from = clamp((low + high - wide) / 2, first, last - wide);
    state.view = [unbend(from), unbend(from + wide)];
  };
  const zoom = (factor, about) => {
    const [low, high] = state.view.map(bend);
    const middle = about === undefined ? (low + high) / 2 : bend(about);
    look(middle - (middle - low) / factor, middle + (high - middle) / factor);
  };
  const pan = (share) => {
    const [low, high] = state.view.map(bend);
    look(low + (high - low) * share, high + (high - low) * share);
  };
  const reset = () => { state.view = [...data.range]; state.top = Infinity; };
  const ticks = () => {
    const [low, high] = state.view;
    if (state.log && high / low > 5) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1)
        for (const digit of high / low > 2000 ? [1] : [1, 2, 5]) found.push(digit * 10 ** power);
      return found.filter((value) => value >= low && value <= high);
    }
    const rough = (high - low) / Math.max(2, Math.floor(inner() / 110));
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
    const found = [];
    for (let n = Math.ceil(low / step); n * step <= high; n += 1) found.push(n * step);
    return found;
  };
  const axis = () => {
    const bottom = HEIGHT - BOTTOM;
    for (const value of ticks()) {
      const x = toX(value);
      make(svg, "line", { x1: x, x2: x, y1: TOP, y2: bottom, class: "kit-explore-grid" });
      make(svg, "text", { x, y: bottom + 16, "text-anchor": "middle" }, time(value * data.unit_ms));
    }
    make(svg, "text", { x: LEFT, y: HEIGHT - 4 }, data.axis);
  };

  // One row a request, the newest at the bottom, against seconds before the server's death.
  const LANE = 13;
  const lanes = {
    height: Math.floor((HEIGHT - TOP - BOTTOM) / LANE),
    rows: () => data.rows.filter((row) => !state.hidden.has(row.look) &&
      row.end >= state.view[0] && row.begin <= state.view[1]),
    draw() {
      const rows = this.rows();
      state.top = clamp(state.top, 0, Math.max(0, rows.length - this.height));
      const inside = make(svg, "svg", { x: LEFT, width: inner(), height: HEIGHT,
        viewBox: `${LEFT} 0 ${inner()} ${HEIGHT}` }); // cuts off what lies outside of it
      if (state.view[1] >= 0)
        make(svg, "line", { x1: toX(0), x2: toX(0), y1: TOP, y2: HEIGHT - BOTTOM,
          class: "kit-explore-death" });
      rows.slice(state.top, state.top + this.height).forEach((row, i) => {
        const look = data.looks[row.look], y = TOP + LANE * (i + 0.5);
        const lane = make(inside, "g", { "data-request": row.request });
        const bar = (from, to, wide, colour) => make(lane, "rect", { x: toX(from), fill: colour,
          y: y - wide / 2, height: wide, width: Math.max(1, toX(to) - toX(from)) });
        if (row.request === state.picked) make(lane, "rect", { x: LEFT, y: y - LANE / 2,
          width: inner(), height: LANE, class: "kit-explore-picked" });
        bar(row.begin, row.end, 5, shade(look.colour));
        for (const token of row.tokens)
          make(lane, "line", { x1: toX(token), x2: toX(token), y1: y - 2.5, y2: y + 2.5 });
        if (row.first !== null)
          make(lane, "line", { x1: toX(row.first), x2: toX(row.first), y1: y - 6, y2: y + 6 });
        make(lane, "text", { x: toX(row.end), y: y + 4, "text-anchor": "middle", fill: shade(look.colour),
          class: "kit-explore-sign" }, look.sign);
        if (i % 5 === 0 || row.request === state.picked)
          make(svg, "text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, `#${row.request}`);
      });
      const row = rows.find((one) => one.request === state.picked);
      const shown = Math.min(rows.length, this.height);
      return row ? this.say(row) : `${shown} of ${rows.length} requests in view; ` +
        `${data.rows.length} kept of ${data.sent} sent.` +
        (data.refused ? ` ${data.refused} more could not be sent: nothing listened any more.` : "");
    },
    say(row) {
      const gaps = row.tokens.map((token, i) => token - (i ? row.tokens[i - 1] : row.first));
      return [`#${row.request}: ${data.looks[row.look].word}`,
        `sent ${time(-1000 * row.begin)} before the death`,
        row.first === null ? "no token or byte came"
          : `first token or byte after ${time(1000 * (row.first - row.begin))}`,
        gaps.length ? `${gaps.length} tokens more, longest gap ${time(1000 * Math.max(...gaps))}` : "",
        `${row.look === "in_flight" ? "open for" : "ended after"} ` +
          time(1000 * (row.end - row.begin)),
      ].filter(Boolean).join("; ") + ".";
    },
    at(x, y) {
      const row = this.rows()[state.top + Math.floor((y - TOP) / LANE)];
      state.picked = row && y < HEIGHT - BOTTOM ? row.request : null;
    },
    step(by) {
      const rows = this.rows();
      if (!rows.length) return;
      const now = rows.findIndex((row) => row.request === state.picked);
      const next = now < 0 ? (by > 0 ? state.top : rows.length - 1)
        : clamp(now + by, 0, rows.length - 1);
      state.picked = rows[next].request;
      state.top = clamp(state.top, next - this.height + 1, next);
    },
    key(event) {
      const moves = { ArrowUp: -1, ArrowDown: 1, PageUp: -this.height, PageDown: this.height };
      if (event.key in moves) this.step(moves[event.key]);
      else if (event.key === "ArrowLeft") pan(-0.2);
      else if (event.key === "ArrowRight") pan(0.2);
      else return false;
      return true;
    },
  };

  // One step line a cell: the share of its requests that were answered within a time.
  const shares = {
    shown: () => data.lines.filter((line) => !state.hidden.has(line.look)),
    within(line, value) {
      let low = 0, high = line.ms.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (line.ms[middle] <= value) low = middle + 1; else high = middle;
      }
      return low ? line.share[low - 1] : 0;
    },
    toY: (share) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP - 6) * share,
    draw() {
      for (const percent of [0, 25, 50, 75, 100]) {
        const y = this.toY(percent / 100);
        make(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: y, y2: y, class: "kit-explore-grid" });
        make(svg, "text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, `${percent} %`);
      }
      for (const line of this.shown()) {
        const from = this.within(line, state.view[0]);
        let path = `M${LEFT} ${this.toY(from)}`;
        line.ms.forEach((ms, i) => {
          if (ms > state.view[0] && ms <= state.view[1])
            path += `H${toX(ms).toFixed(1)}V${this.toY(line.share[i]).toFixed(1)}`;
        });
        make(svg, "path", { d: `${path}H${width - RIGHT}`, fill: "none", "stroke-width": 2,
          stroke: shade(data.looks[line.look].colour), "stroke-dasharray": data.looks[line.look].dash });
      }
      if (state.picked === null) return data.said;
      const x = toX(state.picked);
      make(svg, "line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM, class: "kit-explore-read" });
      return `Answered within ${time(state.picked)}: ` + this.shown().map((line) =>
        `${data.looks[line.look].word} ${short(100 * this.within(line, state.picked))} %`).join(", ") + ".";
    },
    at(x) { state.picked = clamp(toValue(clamp(x, LEFT, width - RIGHT)), ...state.view); },
    key(event) {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way) return false;
      if (event.shiftKey) pan(0.2 * way);
      else this.at((state.picked === null ? LEFT + inner() / 2 : toX(state.picked)) + 6 * way);
      return true;
    },
  };
  const kind = data.rows ? lanes : shares;

  function draw() {
    svg.replaceChildren();
    axis();
    said.textContent = kind.draw();
  }

  button("+", "Look closer", () => zoom(2));
  button("−", "Look from farther off", () => zoom(0.5));
  button("◀", "Earlier times", () => pan(-0.5));
  button("▶", "Later times", () => pan(0.5));
  if (kind === lanes) {
    button("▲", "Earlier requests", () => { state.top -= lanes.height; });
    button("▼", "Later requests", () => { state.top += lanes.height; });
  } else button("log", "Logarithmic scale", (node) => {
    state.log = !state.log;
    node.setAttribute("aria-pressed", state.log);
  }).setAttribute("aria-pressed", state.log);
  button("all", "Show all", reset);
  for (const [name, look] of Object.entries(data.looks)) {
    const node = button("", `Show ${look.word}`, () => {
      if (!state.hidden.delete(name)) state.hidden.add(name);
      state.top = Infinity; // again the last rows
      node.setAttribute("aria-pressed", !state.hidden.has(name));
    });
    node.setAttribute("aria-pressed", true);
    node.className = "kit-explore-look";
    make(node, "span", { style: `color: ${shade(look.colour)}`, "aria-hidden": true }, `${look.sign} `);
    node.append(look.word);
  }

  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") zoom(2, data.rows ? undefined : state.picked ?? undefined);
    else if (event.key === "-") zoom(0.5);
    else if (event.key === "Home" || event.key === "0") reset();
    else if (event.key === "Escape") state.picked = null;
    else if (!kind.key(event)) return;
    event.preventDefault();
    event.stopPropagation();
    draw();
  });
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let began = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") [began] = place(event); // a finger scrolls the page
  });
  svg.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    kind.at(x, y);
    draw();
    if (began !== null) make(svg, "rect", { x: Math.min(began, x), y: TOP, class: "kit-explore-drag",
      width: Math.abs(x - began), height: HEIGHT - BOTTOM - TOP });
  });
  svg.addEventListener("pointerup", (event) => {
    const [x, y] = place(event);
    if (began !== null && Math.abs(x - began) > 5) {
      const ends = [began, x].map((at) => bend(toValue(clamp(at, LEFT, width - RIGHT))));
      look(Math.min(...ends), Math.max(...ends));
    } else kind.at(x, y);
    began = null;
    draw();
  });
  svg.addEventListener("pointerleave", () => { began = null; draw(); });
  svg.addEventListener("dblclick", () => { reset(); draw(); });

  state.top = Infinity; // the last rows
  new ResizeObserver(() => {
    const now = Math.max(300, svg.parentElement.clientWidth);
    if (now === width) return;
    width = now;
    svg.style.cssText = `width: ${width}px; height: ${HEIGHT}px; max-width: none`; // whatever the page's
    draw();
  }).observe(root);
}
