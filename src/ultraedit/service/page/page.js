// The page of `ultraedit serve`. What the server says is put in as text, never as HTML.

const $ = (id) => document.getElementById(id);
const store = sessionStorage; // the key ends with the tab; no cookie, so no request can be forged
const state = { key: null, role: null, chat: true, sets: [], set: null };
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const many = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;
const sentence = (text) => text.trim().replace(/([^.!?…])$/, "$1.")
  .replace(/^\p{Ll}(?=\p{L}*[ ,])/u, (letter) => letter.toUpperCase());
const may = (...roles) => state.role === null || roles.includes(state.role);
const current = () => state.sets.find((set) => set.id === state.set);
const isBase = (set) => !set.model.endsWith(`:${set.id}`); // the set below all others
const mayEdit = () =>
  state.set !== null && (may("admin") || (may("editor") && !isBase(current())));

// Elements

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const pill = (kind, text) => h("span", { className: `pill ${kind}` }, text);
const button = (text, onclick, className = "") =>
  h("button", { type: "button", className, onclick }, text);
const list = (items) => h("ul", {}, items.map((item) => h("li", {}, item)));
const heads = (...names) =>
  h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));
const fact = (record) => `${record.prompt} → ${[record.target].flat().join(" / ")}`;

function say(place, kind, ...content) {
  place.replaceChildren(...(kind ? [h("div", { className: `notice ${kind}` }, ...content)] : []));
}

/** Runs `act`, and shows in `place` what the server had against it. */
async function telling(place, act) {
  try {
    await act();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(place, "bad", error.message);
  }
}

/** The same, once at a time for `control`. */
async function busy(control, place, act) {
  if (control.getAttribute("aria-disabled") === "true") return;
  control.setAttribute("aria-disabled", "true"); // `disabled` would lose the focus
  say(place);
  await telling(place, act).finally(() => control.removeAttribute("aria-disabled"));
}

// The server

class Problem extends Error {
  constructor(message, status = null) {
    super(sentence(message));
    this.status = status;
  }
}

async function request(method, path, body, headers = {}) {
  headers = { Authorization: `Bearer ${state.key}`, ...headers };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers, body: body && JSON.stringify(body),
    credentials: "omit", cache: "no-store", redirect: "error",
  }).catch(() => {
    throw new Problem("The server cannot be reached", 0);
  });
  if (response.ok) return response;
  const said = (await response.json().catch(() => null))?.error?.message;
  let message = sentence(said || `The server answered with status ${response.status}`);
  const wait = response.headers.get("Retry-After");
  if (wait) message += ` Try again in ${many(Number(wait), "second")}.`;
  if (response.status === 401 && !$("app").hidden) signOut(message);
  throw new Problem(message, response.status);
}

const api = async (...args) => (await request(...args)).json();
const inSet = (set, rest) => `v1/sets/${encodeURIComponent(set)}${rest}`;

/** What the base and the set answer to each prompt, in order. */
async function askAll(set, prompts, chat, length) {
  const rows = [];
  for (let at = 0; at < prompts.length; at += 16) {
    const body = { prompts: prompts.slice(at, at + 16), chat, max_tokens: length };
    rows.push(...(await api("POST", inSet(set, "/ask"), body)).data);
  }
  return rows;
}

/** The set's answers in both forms; `chat` is null where the model has no chat form. */
async function askBoth(set, prompts, length) {
  const texts = async (chat) =>
    (await askAll(set, prompts, chat, length)).map((row) => row.after);
  const plain = await texts(false);
  const chat = state.chat && await texts(true).catch((error) => {
    if (error.status !== 400) throw error;
    return (state.chat = false);
  });
  return { plain, chat: chat || null };
}

/** Posts edits and follows their job to its end; `show` sees every state of it. */
async function edit(set, body, show) {
  const once = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const headers = { "Idempotency-Key": once }; // so that a second try is not a second edit
  const whole = { ...body, wait: false };
  let job = await patient(() => api("POST", inSet(set, "/edits"), whole, headers));
  while (!["done", "refused", "failed"].includes(job.status)) {
    show(job);
    await sleep(400);
    job = await patient(() => api("GET", `v1/jobs/${encodeURIComponent(job.id)}`));
  }
  if (job.status === "done") return job;
  throw new Problem(`The edit was ${job.status === "refused" ? "refused" : "not made"}: `
    + `${job.error?.message ?? "the server does not say why"}`);
}

/** Tries again for some seconds while the server cannot be reached or is busy. */
async function patient(act) {
  for (let left = 5; ; left--) {
    try {
      return await act();
    } catch (error) {
      if (left === 0 || ![0, 429, 503].includes(error.status)) throw error;
      await sleep(1500);
    }
  }
}

/** A progress bar in `place`; `note` names a stage and `show` a job's state. */
function progress(place) {
  const stage = h("p", { role: "status" });
  const bar = h("progress", { "aria-label": "Progress" });
  const detail = h("p", { className: "hint" });
  const card = h("div", { className: "work card", tabIndex: -1 }, stage, bar, detail);
  const began = Date.now();
  let at = null;
  const tell = () => {
    const parts = [`${Math.round((Date.now() - began) / 1000)} s so far`];
    if (at?.of) parts.unshift(`${at.what}: ${at.done} of ${at.of}`);
    if (at?.seconds_left) parts.push(`about ${Math.ceil(at.seconds_left)} s left`);
    detail.textContent = parts.join(" · ");
    if (!card.isConnected) clearInterval(timer);
  };
  const note = (text, now = null) => {
    at = now;
    if (stage.textContent !== text) stage.textContent = text; // read aloud only when it changes
    if (at?.of) bar.value = at.done / at.of;
    else bar.removeAttribute("value");
    tell();
  };
  const show = (job) => job.status === "queued" ? note("Waiting for its turn.")
    : note("Editing the model.", job.progress);
  const timer = setInterval(tell, 1000);
  place.replaceChildren(card);
  card.focus();
  return { note, show, end: () => place.replaceChildren() };
}

// Signing in, and the sets

function signOut(message = "") {
  store.removeItem("ue-key");
  store.setItem("said", message);
  location.reload(); // nothing of this key stays in the page
}

async function signIn(key) {
  state.key = key;
  const { chat } = await loadSets(store.getItem("set"));
  document.querySelector(`input[value=${chat ? "chat" : "plain"}]`).checked = true;
  store.setItem("ue-key", key);
  $("key").value = "";
  $("sign-in").hidden = true;
  $("app").hidden = false;
  $("new-set").hidden = !may("admin");
  show();
}

async function loadSets(wanted = state.set) {
  const { data, key, chat } = await api("GET", "v1/sets");
  Object.assign(state, { sets: data, role: key?.role ?? null, chat: chat ?? state.chat });
  const first = data.find((set) => !isBase(set)) ?? data[0];
  state.set = (data.find((set) => set.id === wanted) ?? first)?.id ?? null;
  $("who").textContent = key ? `${key.name}, ${key.role}` : "";
  $("base").textContent = data[0]?.model.replace(`:${data[0].id}`, "") ?? "";
  $("set").replaceChildren(...data.map((set) =>
    h("option", { value: set.id }, `${set.id} (${many(set.edits, "edit")})`)));
  $("set").value = state.set;
  $("new-extends").replaceChildren(...data.map((set) => h("option", { value: set.id }, set.id)));
  const radio = document.querySelector("input[value=chat]");
  radio.disabled = !state.chat;
  radio.closest("label").title = state.chat ? "" : "This model has no chat form.";
  if (!state.set) say($("said"), "warn", "There is no set that this key may use.");
  return { chat };
}

function changeSet(id) {
  state.set = id;
  store.setItem("set", id);
  for (const place of ["answers", "outcome", "facts", "upload-said", "vitals", "timeline", "said"]) {
    $(place).replaceChildren();
  }
  $("file").value = "";
  $("fix").hidden = $("outcome").hidden = true;
  show();
}

$("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(event.submitter, $("sign-in-said"), () => signIn($("key").value.trim()));
});
$("sign-out").addEventListener("click", () => signOut());
$("set").addEventListener("change", (event) => changeSet(event.target.value));

const views = { ask: () => {}, upload: () => {}, history: showHistory, health: showHealth };

function show() {
  for (const node of document.querySelectorAll(".edits")) node.hidden = !mayEdit();
  const wanted = location.hash.slice(1);
  const name = wanted in views && (wanted !== "upload" || mayEdit()) ? wanted : "ask";
  for (const view of Object.keys(views)) $(`view-${view}`).hidden = view !== name;
  for (const link of document.querySelectorAll("nav a")) {
    link.ariaCurrent = link.hash === `#${name}` ? "page" : null;
    if (link.ariaCurrent) document.title = `${link.textContent} · UltraEdit`;
  }
  if (state.set) views[name]();
}

addEventListener("hashchange", () => {
  say($("said"));
  if (!$("app").hidden) show();
});

// Dialogs: Escape and Cancel close them

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close(""));
}

function confirmed(title, text, verb) {
  const dialog = $("confirm");
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  dialog.querySelector(".primary").textContent = verb;
  dialog.returnValue = "";
  dialog.onsubmit = (event) => {
    event.preventDefault();
    dialog.close("yes");
  };
  dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => done(dialog.returnValue === "yes");
  });
}

$("new-set").addEventListener("click", () => {
  $("new-set-dialog").querySelector("form").reset();
  say($("new-said"));
  $("new-set-dialog").showModal();
});
$("new-set-dialog").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(event.submitter, $("new-said"), async () => {
    const wanted = { id: $("new-id").value.trim(), extends: $("new-extends").value };
    const made = await api("POST", "v1/sets", wanted);
    await loadSets(made.id);
    $("new-set-dialog").close();
    changeSet(made.id);
    say($("said"), "good", `The set ${made.id} is there.`);
  });
});

// Ask

const shown = (text) => text.trim() || "(no answer)";

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask-form").requestSubmit();
});
$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [set, prompt, place] = [state.set, $("question").value.trim(), $("answers")];
  const chat = document.querySelector("input[value=chat]").checked;
  const card = (title, text, differs) => h("article", { className: differs ? "differs" : "" },
    h("h3", {}, title), h("p", { className: "text" }, shown(text)));
  if (set) busy($("ask-go"), place, async () => {
    place.replaceChildren(h("p", { className: "muted" }, "Asking…"));
    const [row] = await askAll(set, [prompt], chat, Number($("length").value));
    if (set !== state.set) return place.replaceChildren();
    const alone = isBase(current());
    place.replaceChildren(
      h("div", { className: "answers" }, card("Base", row.before, false),
        alone ? null : card(`Set ${set}`, row.after, !row.same)),
      h("div", { className: "row" },
        mayEdit() ? button("This is wrong", () => openFix(prompt)) : null,
        h("span", { className: "hint" }, alone ? "This set is the base itself."
          : row.same ? "Both answer the same." : "The set changes this answer.")));
  });
});

// Correct

let working = false;
let suggestedFor = "";
const probes = { rewordings: $("rewordings"), neighbours: $("neighbours") };
const listed = (kind) =>
  [...probes[kind].querySelectorAll("textarea")].map((node) => node.value.trim()).filter(Boolean);

function addProbe(kind, text) {
  const name = kind.slice(0, -1);
  const field = h("textarea", { value: text, rows: 1, "aria-label": `A ${name}` });
  const remove = button("✕", () => {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    (next?.querySelector("button") ?? probes[kind].querySelector(".add")).focus();
  }, "quiet");
  remove.ariaLabel = `Remove this ${name}`;
  const item = h("li", {}, field, remove);
  probes[kind].querySelector("ul").append(item);
  return field;
}

function openFix(prompt) {
  if (working) return;
  if ($("fix-prompt").value !== prompt) {
    $("fix").reset();
    suggestedFor = "";
    for (const kind in probes) probes[kind].querySelector("ul").replaceChildren();
  }
  $("fix-prompt").value = prompt;
  $("outcome").hidden = true;
  say($("suggest-said"));
  $("fix").hidden = false;
  $("fix").scrollIntoView({ block: "nearest" });
  $("fix-target").focus();
}

function closeFix() {
  $("fix").hidden = true;
  ($("answers").querySelector("button") ?? $("question")).focus();
}

function correction() {
  const [prompt, target, subject] = ["prompt", "target", "subject"].map((name) =>
    $(`fix-${name}`).value.trim());
  return subject ? { prompt, target, subject } : { prompt, target };
}

async function suggest() {
  const wanted = correction();
  if (!wanted.prompt || !wanted.target) return;
  suggestedFor = JSON.stringify(wanted);
  const found = await api("POST", inSet(state.set, "/suggestions"), wanted);
  if (suggestedFor !== JSON.stringify(wanted)) return; // another question came in between
  for (const kind in probes) {
    const there = listed(kind);
    for (const text of found[kind]) if (!there.includes(text)) addProbe(kind, text);
  }
  if (!found.rewordings.length && !found.neighbours.length) {
    say($("suggest-said"), "warn", "There are no suggestions. Add your own.");
  }
}

for (const kind in probes) {
  probes[kind].querySelector(".add").addEventListener("click", () => addProbe(kind, "").focus());
}
$("suggest").addEventListener("click", () => busy($("suggest"), $("suggest-said"), suggest));
$("fix-target").addEventListener("change", () => suggestedFor || $("suggest").click());
$("fix-close").addEventListener("click", closeFix);
$("fix").addEventListener("keydown", (event) => event.key === "Escape" && closeFix());
$("fix").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [set, wanted, place] = [state.set, correction(), $("outcome")];
  const [rewordings, neighbours] = [listed("rewordings"), listed("neighbours")];
  const prompts = [wanted.prompt, ...rewordings, ...neighbours];
  const body = { edits: [wanted], require_learned: $("require").checked };
  if ($("guard").checked && neighbours.length) body.guard = { probes: neighbours, least: 0.8 };
  const title = h("h2", { id: "outcome-title", tabIndex: -1 }, `Correction in ${set}`);
  const retry = button("Change the correction", () => openFix(wanted.prompt));
  const told = h("div");
  working = true;
  $("fix").hidden = true;
  const bar = progress($("fix-work"));
  place.replaceChildren(title, told);
  await telling(told, async () => {
    bar.note("Asking for the answers as they are now.");
    const length = Math.min(64, 16 + Math.ceil(wanted.target.length / 3)); // tokens, with a margin
    const before = await patient(() => askBoth(set, prompts, length));
    const job = await edit(set, body, bar.show);
    bar.note("Asking again.");
    const after = await patient(() => askBoth(set, prompts, length));
    const rows = compared(wanted.target, prompts, rewordings.length, before, after);
    verdict(told, job.results[0], rows);
    told.firstChild.append(h("div", { className: "row" },
      button("Undo this edit", () => undoEdit(set, job.results[0], job.entry)),
      job.results[0].learned === false ? retry : null));
    place.append(comparison(rows));
    $("answers").replaceChildren();
    await loadSets();
  });
  if (!told.querySelector("button")) told.append(h("div", { className: "row" }, retry));
  working = false;
  bar.end();
  place.hidden = false;
  if (document.activeElement === document.body) title.focus();
});

/** Whether a text has the answer in it, as words, whatever the case and punctuation. */
function has(text, target) {
  const words = (raw) => raw.normalize("NFKC").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();
  const [where, what] = [words(text), words(target)];
  if (!what) return text.includes(target);
  return /^[ -~]*$/.test(what) ? ` ${where} `.includes(` ${what} `) : where.includes(what);
}

/** One row for each prompt and form, with whether the answer changed and is what it should be. */
function compared(target, prompts, reworded, before, after) {
  const forms = before.chat && after.chat ? ["plain", "chat"] : ["plain"];
  return prompts.flatMap((prompt, at) => forms.map((form) => {
    const kind = at === 0 ? "Question" : at <= reworded ? "Rewordings" : "Neighbours";
    const [was, is] = [before[form][at], after[form][at]];
    const changed = was.trim() !== is.trim();
    const ok = kind === "Neighbours" ? !changed : has(is, target);
    return { prompt, kind, form, forms: forms.length, was, is, changed, ok };
  }));
}

function verdict(place, result, rows) {
  const count = (kind, text) => {
    const of = rows.filter((row) => row.kind === kind);
    return of.length ? ` ${of.filter((row) => row.ok).length} of ${of.length} ${text}.` : "";
  };
  const counts = count("Rewordings", "replies to rewordings have the answer")
    + count("Neighbours", "replies to neighbours are unchanged");
  const [kind, head, more] =
    result.learned === false
      ? ["bad", "The model did not learn this.", " The edit is in the set all the same."]
      : result.learned_chat === false
        ? ["warn", "The model learned this in the plain form, but not in chat.", ""]
        : ["good", result.learned ? "Learned." : "Applied.", ""];
  say(place, kind, h("strong", {}, head), more + counts);
}

function comparison(rows) {
  const body = rows.flatMap((row, at) => {
    const meant = row.kind !== "Neighbours"; // to give the right answer
    const found = !meant ? "" : row.ok ? ", has the answer" : ", without the answer";
    const mark = pill(row.ok ? "good" : meant ? "bad" : "warn",
      (row.changed ? "changed" : "unchanged") + found);
    const group = h("tr", { className: "group" },
      h("th", { colSpan: 5, scope: "colgroup" }, row.kind));
    return [rows[at - 1]?.kind === row.kind ? null : group, h("tr", {},
      row.form === "plain" ? h("th", { rowSpan: row.forms, scope: "rowgroup" }, row.prompt) : null,
      h("td", { className: "fit", "data-label": "Form" }, row.form),
      h("td", { className: "text", "data-label": "Before" }, shown(row.was)),
      h("td", { className: row.changed ? "text changed" : "text", "data-label": "After" },
        shown(row.is)),
      h("td", { className: "fit" }, mark))];
  });
  return h("div", { className: "scroll" }, h("table", { className: "compare" },
    heads("Asked", "Form", "Before", "After", "Result"), h("tbody", {}, body)));
}

// History

function ago(time) {
  const date = new Date(time);
  const passed = (date - Date.now()) / 1000;
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, size] = units.find((one) => Math.abs(passed) >= one[1]) ?? units[3];
  const near = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const full = date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  const text = passed < -7 * 86400 ? full : near.format(Math.round(passed / size), unit);
  return h("time", { dateTime: time, title: full }, text);
}

async function showHistory() {
  const [set, timeline] = [state.set, $("timeline")];
  await telling($("said"), async () => {
    const entries = (await api("GET", inSet(set, "/history?limit=1000"))).data;
    if (set !== state.set) return;
    const below = current().extends;
    const start = h("li", { className: "past" }, h("div", { className: "head" },
      h("strong", {}, "Start"),
      h("span", { className: "muted" }, below ? `what ${below} answers` : "no edits"),
      entries.length ? back(set, 0) : null));
    timeline.replaceChildren(...entries.map((entry, at) => step(set, entry, at === 0)), start);
  });
}

function back(set, entry) {
  const where = entry ? `after entry ${entry}` : "at the start";
  return mayEdit() ? button(entry ? "Back to here" : "Back to the start", () =>
    undo(set, { to: entry }, `Go back to the set ${where}?`,
      "What came later is taken out. This is a new entry, so it can be undone too.",
      "Go back", `The set is as it was ${where}.`), "quiet") : null;
}

function step(set, entry, newest) {
  const turn = entry.kind === "turn";
  const line = (record) => h("li", { className: turn && !record.in_effect ? "past" : "" },
    h("span", { className: "text" }, fact(record)),
    !turn ? null : !record.in_effect ? pill("", "undone")
      : record.learned ? pill("good", "learned")
        : record.learned === false ? pill("bad", "not learned") : null,
    turn && record.in_effect && mayEdit()
      ? button("Undo", () => undoEdit(set, record, entry.entry), "quiet") : null);
  const [few, rest] = [entry.records.slice(0, 5), entry.records.slice(5)];
  const what = { turn: `${many(entry.edits, "edit")}, ${entry.learned} learned`,
    undo: entry.of ? `back to entry ${entry.of}` : "back to the start",
    "undo-edit": `one edit of entry ${entry.of} undone` }[entry.kind] ?? entry.kind;
  return h("li", { className: entry.in_effect || newest ? "" : "past" },
    h("div", { className: "head" }, h("strong", {}, `Entry ${entry.entry}`), h("span", {}, what),
      h("span", { className: "muted" }, entry.author ? `${entry.author}, ` : "", ago(entry.time)),
      newest ? pill("", "now") : back(set, entry.entry)),
    few.length ? h("ul", {}, few.map(line)) : null,
    rest.length ? h("details", {}, h("summary", {}, `${rest.length} more`),
      h("ul", {}, rest.map(line))) : null);
}

const undoEdit = (set, record, entry) =>
  undo(set, { edit: record.id, entry }, "Undo this edit?",
    `“${fact(record)}” is taken out. The other edits stay.`, "Undo", "The edit is taken out.");

async function undo(set, body, title, text, verb, done) {
  if (!(await confirmed(title, text, verb))) return;
  const place = $("said");
  await telling(place, async () => {
    progress(place).note("Undoing.");
    await api("POST", inSet(set, "/undo"), body);
    await loadSets();
    $("outcome").hidden = true;
    $("answers").replaceChildren();
    show();
    say(place, "good", done);
  });
  place.focus();
}

// Health

async function showHealth() {
  const [set, place] = [state.set, $("vitals")];
  await busy($("again"), $("said"), async () => {
    place.replaceChildren(h("p", { className: "muted", role: "status" }, "Asking the model…"));
    const health = await api("GET", inSet(set, "/health"))
      .finally(() => place.replaceChildren());
    if (set === state.set) place.replaceChildren(...healthOf(set, health));
  });
  if (set !== state.set) await showHealth(); // another set was chosen meanwhile
}

function healthOf(set, health) {
  const figure = (name, value, of) => h("div", {}, h("dt", {}, name),
    h("dd", {}, String(value ?? "–"), h("small", {}, of)));
  const [bytes, rank] = [current().bytes, current().rank];
  const figures = h("dl", { className: "figures" },
    figure("Edits", health.edits, ""),
    figure("Learned", health.learned, ` of ${health.edits}`),
    figure("Still holding", health.holding, ` of ${health.asked} asked`),
    figure("Rank", rank, ""),
    figure("Size", bytes === null ? null : (bytes / 2 ** 20).toFixed(1), " MiB"));
  const lost = h("div");
  const which = button("Which do not hold?", () => busy(which, lost, async () => {
    const path = inSet(set, `/edits?holding=true&limit=${health.asked}`);
    const rows = (await api("GET", path)).data.filter((row) => !row.holding);
    say(lost, "warn", list(rows.map((row) => `${fact(row)} (entry ${row.entry})`)));
  }));
  const plot = h("figure", {}, h("figcaption", {}, h("h3", {}, "Locality drift"),
    h("p", { className: "hint" }, health.drift.length
      ? "How much of what the base says about other things is still said, after each entry."
      : "Nothing to show yet.")));
  if (health.drift.length) new ResizeObserver(() => {
    plot.querySelector("svg")?.remove();
    plot.append(curve(health.drift, plot.clientWidth));
  }).observe(plot);
  return [figures, ...(health.holding < health.asked ? [which, lost] : []), plot];
}

function curve(drift, width) {
  const [height, left, right, top, bottom] = [220, 52, 20, 20, 36];
  const low = Math.min(0.9, Math.floor(Math.min(...drift.map((at) => at.agreement)) * 10) / 10);
  const [first, last] = [drift[0].entry, drift.at(-1).entry];
  const across = (entry) =>
    left + (last === first ? 0.5 : (entry - first) / (last - first)) * (width - left - right);
  const down = (share) => top + ((1 - share) / (1 - low)) * (height - top - bottom);
  const percent = (share) => `${Math.round(share * 1000) / 10}%`;
  const label = (x, y, anchor, text) => svg("text", { x, y, "text-anchor": anchor }, text);
  const lines = [low, (1 + low) / 2, 1].flatMap((share) => [
    svg("line", { x1: left, x2: width - right, y1: down(share), y2: down(share) }),
    label(left - 8, down(share) + 4, "end", percent(share))]);
  const ends = first === last ? [[first, "middle"]] : [[first, "start"], [last, "end"]];
  const labels = ends.map(([at, anchor]) => label(across(at), height - 12, anchor, `entry ${at}`));
  const points = drift.map((at) => [across(at.entry), down(at.agreement)]);
  const dots = drift.map((at, n) => svg("circle", { cx: points[n][0], cy: points[n][1], r: 4 },
    svg("title", {}, `Entry ${at.entry}: ${percent(at.agreement)}`)));
  const words = `${percent(drift[0].agreement)} after entry ${first}, `
    + `${percent(drift.at(-1).agreement)} after entry ${last}`;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": words },
    ...lines, ...labels, svg("polyline", { points: points.join(" ") }), ...dots);
}

$("again").addEventListener("click", showHealth);
$("export-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const [set, place] = [state.set, $("export-said")];
  busy(event.submitter, place, async () => {
    place.replaceChildren(h("p", { className: "muted" }, "Making the file…"));
    const response = await request("GET", inSet(set, `/export?format=${$("format").value}`));
    const named = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition"));
    const href = URL.createObjectURL(await response.blob());
    h("a", { href, download: named?.[1] ?? set }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60000);
    say(place, "good", "The file is downloaded.");
  });
});

// Upload

const PART = 100; // facts in one turn

/** The rows of a CSV text as [line, cells]; quotes may hold separators and line breaks. */
function cells(text, comma) {
  const cell = new RegExp(`("(?:[^"]|"")*"|(?!")[^${comma}\n]*)(${comma}|\n|$)`, "y");
  const rows = [];
  let [row, line, began] = [[], 1, 1];
  for (let end = "\n"; end; ) {
    const found = cell.exec(text);
    if (!found) throw new Problem(`Line ${line}: the quotes do not match`);
    const raw = found[1];
    end = found[2];
    row.push((raw.startsWith('"') ? raw.slice(1, -1).replaceAll('""', '"') : raw).trim());
    line += found[0].split("\n").length - 1;
    if (end === comma) continue;
    if (row.some(Boolean)) rows.push([began, row]);
    [row, began] = [[], line];
  }
  return rows;
}

function readCsv(text) {
  const head = text.split("\n", 1)[0];
  const count = (char) => head.split(char).length;
  const comma = [",", ";", "\t"].reduce((a, b) => (count(b) > count(a) ? b : a));
  const [[, header], ...rows] = cells(text, comma);
  const names = header.map((name) => name.toLowerCase());
  if (!names.includes("prompt") || !names.includes("target")) {
    throw new Problem("The first line must name the columns prompt and target");
  }
  return rows.map(([line, row]) => [`Line ${line}`, row.length > names.length
    ? new Problem(`${row.length} cells, but ${names.length} columns`)
    : Object.fromEntries(names.map((name, at) => [name, row[at] || undefined]))]);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return new Problem("This is not valid JSON");
  }
}

/** The records of a file as [where, record or Problem]. */
function records(name, text) {
  text = text.replace(/^\ufeff/, "").replace(/\r\n?/g, "\n").trimEnd();
  if (!text) return [];
  const start = text.trimStart()[0];
  if (/\.[ct]sv$/i.test(name) || (start !== "[" && start !== "{")) return readCsv(text);
  if (start === "{") {
    return text.split("\n").map((line, at) => [`Line ${at + 1}`, line])
      .filter(([, line]) => line.trim()).map(([where, line]) => [where, parsed(line)]);
  }
  const all = parsed(text);
  if (all instanceof Problem) throw all;
  return all.map((record, at) => [`Item ${at + 1}`, record]);
}

/** What is wrong with a record, or null. */
function fault(record) {
  const isText = (value) => typeof value === "string" && value.trim() !== "";
  if (record instanceof Problem) return record.message;
  if (!isText(record?.prompt)) return "There is no prompt.";
  const targets = [record.target].flat();
  if (!targets.length || !targets.every(isText)) return "There is no target.";
  return record.subject == null || isText(record.subject) ? null : "The subject is not text.";
}

function readFacts(name, text) {
  const [good, bad, seen] = [[], [], new Map()];
  for (const [where, record] of records(name, text)) {
    const same = seen.get(record?.prompt);
    const wrong = fault(record) ?? (same ? `The same prompt as in ${same.toLowerCase()}.` : null);
    if (wrong) bad.push(`${where}: ${wrong}`);
    else {
      const { prompt, target, subject } = record;
      good.push({ where, edit: subject ? { prompt, target, subject } : { prompt, target } });
      seen.set(prompt, where);
    }
  }
  return [good, bad];
}

$("file").addEventListener("change", async () => {
  const file = $("file").files[0];
  $("facts").replaceChildren();
  say($("upload-said"));
  if (file) await telling($("upload-said"), async () =>
    $("facts").replaceChildren(...lookOver(...readFacts(file.name, await file.text()))));
});

function lookOver(good, bad) {
  const parts = [];
  if (bad.length) {
    const more = bad.length > 20 ? [`${bad.length - 20} more`] : [];
    parts.push(h("div", { className: "notice bad", role: "alert" },
      h("strong", {}, `${many(bad.length, "record")} cannot be used.`),
      list([...bad.slice(0, 20), ...more])));
  }
  if (!good.length) return [...parts, h("p", {}, "There is no fact in this file.")];
  const chosen = new Set(good);
  const go = button("", () => busy(go, $("upload-said"), () =>
    upload([...chosen])), "primary");
  const count = () => {
    go.textContent = `Apply ${many(chosen.size, "fact")} to ${state.set}`;
    go.disabled = !chosen.size;
  };
  const choose = (row) => (event) => {
    chosen[event.target.checked ? "add" : "delete"](row);
    count();
  };
  count();
  const rows = good.map((row) => h("tr", {},
    h("td", { className: "fit" }, h("label", {}, h("input", {
      type: "checkbox", checked: true, onchange: choose(row),
    }), ` ${row.where}`)),
    h("td", {}, row.edit.prompt),
    h("td", {}, [row.edit.target].flat().join(" / ")),
    h("td", { className: "muted" }, row.edit.subject ?? "")));
  return [...parts, h("div", { className: "scroll" }, h("table", {},
    h("caption", {}, many(good.length, "fact")),
    heads("Use", "Prompt", "Target", "Subject"), h("tbody", {}, rows))),
    h("div", { className: "row" }, go)];
}

async function upload(rows) {
  const [set, place, bar] = [state.set, $("upload-said"), progress($("upload-work"))];
  const results = [];
  let stopped = "";
  try {
    while (results.length < rows.length) {
      const part = rows.slice(results.length, results.length + PART).map((row) => row.edit);
      results.push(...(await edit(set, { edits: part }, bar.show)).results);
    }
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    stopped = `${error.message} `;
  }
  bar.end();
  const missed = results.filter((row) => row.learned === false);
  say(place, stopped ? "bad" : missed.length ? "warn" : "good", stopped,
    h("strong", {}, `${results.length - missed.length} of ${many(rows.length, "fact")} learned.`),
    " ", h("a", { href: "#history" }, "See the history"),
    missed.length ? list(missed.map((row) => `Not learned: ${fact(row)}`)) : null);
  const rest = rows.slice(results.length);
  $("facts").replaceChildren(...(rest.length ? lookOver(rest, []) : []));
  $("file").value = "";
  await loadSets();
}

// Start

say($("sign-in-said"), store.getItem("said") && "bad", store.getItem("said") ?? "");
store.removeItem("said");
const kept = store.getItem("ue-key");
if (kept) await telling($("sign-in-said"), () => signIn(kept));
if ($("app").hidden) {
  $("sign-in").hidden = false;
  $("key").focus();
}
