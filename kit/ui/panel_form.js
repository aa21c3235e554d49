// The panel's form: native inputs with labels. It sends what is typed as `choice`; Run sends the
// choice that is on the screen with the click, so that nothing typed before or after it matters.
// JupyterLab takes keys such as b or d as commands of its own, unless what has the focus itself
// says no: an attribute further out comes too late.
const TAKES_KEYS = new Set(["a", "button", "input", "select", "summary", "textarea"]);
const el = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  if (TAKES_KEYS.has(tag)) made.setAttribute("data-lm-suppress-shortcuts", "true");
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
};

let serial = 0;

function render({ model, el: root }) {
  const id = `kit-panel-${++serial}`;
  const fields = model.get("fields");
  let choice = structuredClone(model.get("choice"));
  let version = model.get("view").version || 0;
  const problems = {};

  const problem = (name) => {
    const made = el("span", { class: "kit-problem", id: `${id}-${name}-problem`, role: "alert" });
    problems[name] = made;
    return made;
  };

  const send = () => {
    version += 1;
    model.set("choice", { ...structuredClone(choice), version });
    model.save_changes();
    form.dataset.state = "checking";
  };

  const checks = (name, title, options) => {
    const chips = el("span", { class: "kit-chips", "aria-label": `chosen ${title.toLowerCase()}` });
    const boxes = options.map(([value, text]) => {
      const box = el("input", { type: "checkbox", value, id: `${id}-${name}-${value}` });
      box.checked = choice[name].includes(value);
      box.addEventListener("change", () => { read(); send(); });
      return box;
    });
    const read = () => {
      choice[name] = boxes.filter((box) => box.checked).map((box) => box.value);
      draw();
    };
    const draw = () => {
      chips.replaceChildren(...boxes.filter((box) => box.checked).map((box) => el("button", {
        type: "button", class: "kit-chip", "aria-label": `remove ${box.value}`, text: `${box.value} ×`,
        onclick: () => { box.checked = false; read(); send(); box.focus(); },
      })));
      if (!chips.childElementCount) chips.textContent = "none chosen";
    };
    const list = el("div", { class: "kit-list", onkeydown: (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const at = boxes.indexOf(document.activeElement);
      if (step && at >= 0) {
        event.preventDefault();
        boxes[Math.min(boxes.length - 1, Math.max(0, at + step))].focus();
      }
    } }, ...boxes.map((box, i) => el("label", { for: box.id }, box, el("span", { text: options[i][1] }))));
    const group = el("fieldset", { class: "kit-choice", "aria-describedby": `${id}-${name}-problem` },
      el("legend", { text: title }), chips, list, problem(name));
    return { group, boxes, set: () => {
      for (const box of boxes) box.checked = choice[name].includes(box.value);
      draw();
    } };
  };

  const inputs = [];
  const text = (name, title, hint, get, set, options = null) => {
    const input = options
      ? el("select", {}, ...options.map(([value, shown]) => el("option", { value, text: shown })))
      : el("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: hint });
    input.id = `${id}-${name}`;
    input.name = name;
    input.setAttribute("aria-describedby", `${id}-${name}-problem`);
    input.value = get();
    input.addEventListener("input", () => { set(input.value); send(); });
    inputs.push(() => { input.value = get(); });
    return el("div", { class: "kit-field" },
      el("label", { for: input.id, text: title }), input, problem(name));
  };

  const traffic = ([name, unit, help]) => text(
    `traffic.${name}`, unit && unit !== name ? `${name} (${unit})` : name, help,
    () => choice.traffic[name] || "", (value) => { choice.traffic[name] = value; });

  const flag = (name, title) => {
    const box = el("input", { type: "checkbox", id: `${id}-${name}` });
    box.checked = choice[name];
    box.addEventListener("change", () => { choice[name] = box.checked; send(); });
    inputs.push(() => { box.checked = choice[name]; });
    return el("label", { class: "kit-flag", for: box.id }, box, el("span", { text: title }));
  };

  // Fields of one question, or of a server elsewhere, are there only where they are about something.
  const when = (isShown, ...children) => {
    const group = el("div", { class: "kit-when" }, ...children);
    conditions.push(() => { group.hidden = !isShown(); });
    return group;
  };
  const plain = (name, title, hint, options = null) => text(
    name, title, hint, () => choice[name], (value) => { choice[name] = value; drawConditions(); }, options);
  const conditions = [];
  const drawConditions = () => { for (const draw of conditions) draw(); };
  const others = el("details", {}, el("summary", { text: "Servers in containers, or one that runs already" }),
    plain("images", "containers", "25.10, or names of images"),
    plain("gpus", "GPUs of the containers", "all, or 0,1"),
    plain("url", "URL", "http://HOST:8000, grpc://HOST:8001"),
    plain("model", "model", "what the container or the URL serves"),
    when(() => choice.url.trim(), flag("agreed", "this traffic may go to that server"), problem("agreed")));
  const cluster = el("details", {}, el("summary", { text: "Hosts of a Dask cluster" }),
    plain("on", "scheduler", "tcp://HOST:8786; empty: this machine"), traffic(fields.load_hosts));
  const goals = when(() => choice.question === "limit", ...fields.goals.map(([name, hint]) => text(
    `goals.${name}`, name, hint, () => choice.goals[name] || "", (value) => { choice.goals[name] = value; })));
  const claim = when(() => choice.question === "soak",
    text("one_in", "less than one crash in (requests)", "1000", () => choice.one_in, (v) => { choice.one_in = v; }));

  const releases = checks("releases", "Releases", fields.releases);
  const scenarios = checks("scenarios", "Scenarios", fields.scenarios);
  const shown = fields.traffic.filter(([name]) => ["concurrency", "requests"].includes(name));
  const more = fields.traffic.filter(([name]) => !["concurrency", "requests"].includes(name));
  const plan = el("div", { class: "kit-plan", "aria-live": "polite" });
  const knownLine = el("summary"), knownMore = el("ul");
  const known = el("details", { class: "kit-known" }, knownLine, knownMore);
  const whole = el("p", { class: "kit-problem", role: "alert" });
  const live = el("div", { class: "kit-live" });
  const results = el("div", { class: "kit-outcome", "aria-live": "polite" });
  const code = (title, name) => {
    const shown = el("code");
    const copy = el("button", { type: "button", text: "Copy", "aria-label": `copy ${title}`,
      onclick: async () => { await navigator.clipboard?.writeText(shown.textContent); copy.textContent = "Copied"; } });
    return { shown, row: el("p", { class: "kit-code" }, el("strong", { text: title }), shown, copy) };
  };
  const python = code("Python call");
  const command = code("command line");

  const run = el("button", { type: "button", class: "kit-run", text: "Run",
    onclick: () => model.send({ kind: "run", choice: { ...structuredClone(choice), version } }) });
  const stop = el("button", { type: "button", class: "kit-stop", text: "Stop", disabled: true,
    onclick: () => { stop.disabled = true; model.send({ kind: "stop" }); } });

  const report = el("button", { type: "button", text: "Report", disabled: true,
    onclick: () => { report.disabled = true; model.send({ kind: "report" }); } });
  const opened = el("span", { "aria-live": "polite" });
  const name = el("input", { type: "text", id: `${id}-name`, placeholder: "name" });
  const saved = el("select", { id: `${id}-saved` });
  const save = el("button", { type: "button", text: "Save", "aria-label": "save this configuration",
    onclick: () => model.send({ kind: "save", name: name.value, choice }) });
  const load = el("button", { type: "button", text: "Load", "aria-label": "load the configuration",
    onclick: () => model.send({ kind: "load", name: saved.value }) });
  const configurations = el("div", { class: "kit-saved" },
    el("label", { for: name.id, text: "Save as" }), name, save,
    el("label", { for: saved.id, text: "Saved" }), saved, load, problem("saved"));

  const editable = el("fieldset", { class: "kit-editable" },
    el("legend", { text: "What to run" }),
    plain("question", "question", "", fields.questions),
    releases.group, others, cluster, scenarios.group, flag("own", "my own traffic, in place of scenarios"),
    text("engine", "engine", "", () => choice.engine, (v) => { choice.engine = v; }, fields.engines),
    ...shown.map(traffic),
    el("details", {}, el("summary", { text: "More of the traffic" }), ...more.map(traffic)),
    goals, claim,
    when(() => choice.question === "crash",
      text("repeats", "repeats", "trials of a cell", () => choice.repeats, (v) => { choice.repeats = v; }),
      flag("sequential", "stop a cell once it is decided (repeats are then the most)")),
    text("minutes", "budget (minutes)", "none", () => choice.minutes, (v) => { choice.minutes = v; }),
    configurations);
  const form = el("form", { class: "kit-panel",
    "aria-label": "Triton crash kit", onsubmit: (event) => event.preventDefault() },
    editable, plan, known, whole, el("div", { class: "kit-buttons" }, run, stop, report, opened),
    live, results, el("details", { class: "kit-as-code" }, el("summary", { text: "The same as code" }), python.row, command.row));

  const show = () => {
    const view = model.get("view");
    const running = view.state === "running" || view.state === "stopping";
    const answered = (view.version || 0) >= version;
    form.dataset.state = answered ? view.state : "checking";
    for (const [field, made] of Object.entries(problems)) made.textContent = (answered && view.problems[field]) || "";
    for (const field of Object.keys(problems)) {
      const input = form.querySelector(`[aria-describedby="${id}-${field}-problem"]`);
      if (input) input.toggleAttribute("aria-invalid", Boolean(answered && view.problems[field]));
    }
    whole.textContent = answered ? view.problems[""] || "" : "";
    plan.replaceChildren(...view.plan.map((line) => el("p", { text: line })));
    known.hidden = !view.known;
    knownLine.textContent = `Known before this run: ${view.known}`;
    knownMore.replaceChildren(...(view.known_more || []).map((line) => el("li", { text: line })));
    python.shown.textContent = view.python;
    command.shown.textContent = view.command;
    const focus = form.contains(document.activeElement) ? document.activeElement : null;
    editable.disabled = running;
    run.disabled = running || (answered && Object.keys(view.problems).length > 0);
    stop.disabled = view.state !== "running";
    if (focus && focus.matches(":disabled")) (running ? stop : run).focus();
    saved.replaceChildren(...view.saved.map((one) => el("option", { value: one, text: one })));
    report.disabled = !view.report;
    load.disabled = !view.saved.length;
  };
  const take = () => {  // a configuration was loaded, or the kernel set the choice
    const given = model.get("choice");
    if ((given.version || 0) === version && given.loaded === undefined) return;
    if (given.loaded === undefined) return;
    choice = structuredClone(given);
    delete choice.loaded;
    version = choice.version || version;
    delete choice.version;
    releases.set(); scenarios.set(); for (const set of inputs) set();
    others.open = Boolean(choice.images || choice.url);
    cluster.open = Boolean(choice.on);
    drawConditions(); show();
  };
  delete choice.version; delete choice.loaded;
  releases.set(); scenarios.set();
  const drawLive = () => { live.innerHTML = model.get("live"); };
  const drawResults = () => { results.innerHTML = model.get("results"); };
  const openReport = (message) => {  // as a page of its own, that needs no server
    if (message.kind !== "report") return;
    report.disabled = false;
    const url = URL.createObjectURL(new Blob([message.html], { type: "text/html" }));
    opened.replaceChildren(el("a", { href: url, target: "_blank", text: "Open the report" }),
      ` (also in ${message.path})`);
    opened.firstChild.focus();
  };
  model.on("msg:custom", openReport);
  model.on("change:view", show);
  model.on("change:choice", take);
  model.on("change:live", drawLive);
  model.on("change:results", drawResults);
  root.append(form);
  drawConditions(); show(); drawLive(); drawResults();
  return () => {
    model.off("msg:custom", openReport);
    model.off("change:view", show); model.off("change:choice", take);
    model.off("change:live", drawLive); model.off("change:results", drawResults);
  };
}
export default { render };
