/**
 * FlexMDMPlayground has a text written by the server that the page came from, and shows how.
 *
 * The text is the document: what is written becomes part of it, and any stretch of it can be
 * selected and written anew. Needs player.js.
 */
const FlexMDMPlayground = (() => {
  "use strict";

  const SHORT = 24;

  /** Yields what server-sent events hold, as it comes. */
  async function* eventsOf(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) if (block.startsWith("data: ")) yield block.slice(6);
    }
  }

  /** Returns what an answer that is no 200 says. */
  async function problemOf(response) {
    const values = await response.json().catch(() => ({}));
    return values.error?.message ?? `the server answers ${response.status}`;
  }

  const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

  return class FlexMDMPlayground {
    #data;
    #parts;
    #player;
    #running = null;
    #runs = 0;
    #history = [];

    /**
     * @param {Document} page Holds the form and the player's place.
     * @param {object} data What page.py says of the server.
     */
    constructor(page, data) {
      this.#data = data;
      const names = ["form", "text", "hint", "write", "rewrite", "stop", "undo", "sampler", "key"];
      names.push("status", "problem", "player", "theme");
      this.#parts = Object.fromEntries(names.map((name) => [name, page.getElementById(name)]));
      this.#player = new FlexMDMPlayer(this.#parts.player, { mask: data.mask }, page);
      this.#prepare();
      this.#listen(page);
      this.#refresh();
    }

    #prepare() {
      const { form, hint, sampler, key, rewrite } = this.#parts;
      const { inserts, samplers, needsKey, gap } = this.#data;
      for (const name of samplers) sampler.append(new Option(name));
      key.hidden = !needsKey;
      form.elements.n.max = this.#data.maxN;
      for (const element of form.querySelectorAll("[data-inserts]")) element.hidden = !inserts;
      rewrite.hidden = !inserts;
      hint.textContent = inserts
        ? `Write ${gap} wherever something is to be written; without one, the text is continued.`
        : "The text is continued.";
    }

    #listen(page) {
      const { form, text, rewrite, stop, undo, sampler, theme } = this.#parts;
      const on = (target, kind, act) => target.addEventListener(kind, act);
      const press = (element, act) => {
        on(element, "click", () => element.getAttribute("aria-disabled") !== "true" && act());
      };
      on(form, "submit", (event) => {
        event.preventDefault();
        this.write();
      });
      press(rewrite, () => this.rewrite());
      press(stop, () => this.stop());
      press(undo, () => this.undo());
      on(sampler, "change", () => this.#refresh());
      on(text, "input", () => this.#refresh());
      on(page, "selectionchange", () => this.#refresh());
      on(page, "keydown", (event) => {
        if (event.key === "Escape" && this.#running) this.stop();
        if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
        event.preventDefault();
        if (event.shiftKey) this.rewrite();
        else form.requestSubmit();
      });
      on(theme, "click", FlexMDMPlayer.switchTheme);
    }

    /** Fills the gaps of the text, or continues it if there are none. */
    write() {
      const { value } = this.#parts.text;
      const { gap, inserts } = this.#data;
      if (inserts && value.includes(gap)) this.#run({ template: value });
      else if (inserts) this.#run({ template: [value, null] });
      else this.#run({ prompt: value }, "/v1/completions");
    }

    /** Writes the selected stretch of the text anew, or something where the cursor is. */
    rewrite() {
      const { value, selectionStart, selectionEnd } = this.#parts.text;
      const [before, after] = [value.slice(0, selectionStart), value.slice(selectionEnd)];
      if (this.#data.inserts) this.#run({ template: [before, null, after] });
    }

    /** Leaves the server alone, and the text as it was. */
    stop() {
      this.#running?.abort();
    }

    /** Goes back to the text before the last one that was written. */
    undo() {
      if (this.#running || !this.#history.length) return;
      this.#parts.text.value = this.#history.pop();
      this.#refresh();
    }

    /** Returns the settings that are given. */
    #settings() {
      const settings = {};
      for (const field of this.#parts.form.querySelectorAll("[name]")) {
        if (field.value === "" || field.closest("label").hidden) continue;
        settings[field.name] = field.type === "number" ? Number(field.value) : field.value;
      }
      return settings;
    }

    /** Shows what goes together, and what can be done at the moment. */
    #refresh() {
      const { form, text, write, rewrite, stop, undo, sampler } = this.#parts;
      for (const element of form.querySelectorAll("[data-for]")) {
        const kinds = element.dataset.for.split(" ");
        const missing = "inserts" in element.dataset && !this.#data.inserts;
        element.hidden = missing || !kinds.includes(sampler.value);
      }
      // Not `disabled`, which would take the focus away from who presses them.
      const allow = (element, may) => element.setAttribute("aria-disabled", !may);
      const running = this.#running !== null;
      const selected = text.selectionStart < text.selectionEnd;
      allow(write, !running);
      allow(rewrite, !running && selected);
      allow(stop, running);
      allow(undo, !running && this.#history.length > 0);
    }

    async #run(given, address = "/v1/infill") {
      if (this.#running) return;
      const { status, problem, key, text } = this.#parts;
      const leave = new AbortController();
      this.#running = leave;
      this.#runs += 1;
      problem.textContent = "";
      status.textContent = "waiting for the server";
      this.#refresh();
      const headers = { "Content-Type": "application/json" };
      const secret = key.querySelector("input").value;
      if (secret) headers.Authorization = `Bearer ${secret}`;
      const body = JSON.stringify({ ...given, ...this.#settings(), stream: true });
      try {
        const response = await fetch(address, { method: "POST", headers, body, signal: leave.signal });
        if (!response.ok) throw new Error(await problemOf(response));
        const finished = await this.#watch(response, given);
        this.#history.push(text.value);
        this.#take(given, finished);
      } catch (error) {
        status.textContent = leave.signal.aborted ? "stopped" : "";
        if (!leave.signal.aborted) problem.textContent = this.#told(error);
      } finally {
        this.#running = null;
        this.#refresh();
      }
    }

    #told(error) {
      const lost = error instanceof TypeError;
      return lost ? "the server cannot be reached" : error.message;
    }

    /** Plays what comes; returns the first sample's choice. */
    async #watch(response, given) {
      const samples = new Map();
      let first = null;
      for await (const data of eventsOf(response)) {
        if (data === "[DONE]") break;
        const { error, choices, flexmdm } = JSON.parse(data);
        if (error) throw new Error(error.message);
        const [choice] = choices;
        if (flexmdm?.frame) this.#show(samples, choice.index, given, flexmdm);
        if (choice.finish_reason === null) continue;
        if (choice.index === 0) first = choice;
        this.#player.describe(samples.get(choice.index), { ended: choice.finish_reason });
        if (flexmdm?.samples) this.#describe(samples, flexmdm.samples);
      }
      if (!first) throw new Error("the server broke off");
      return first;
    }

    #show(samples, index, given, { frame, pieces }) {
      const { player, status } = this.#parts;
      if (!samples.has(index)) {
        const several = index > 0 || samples.size > 0;
        const name = `${this.#runs}${several ? `.${index + 1}` : ""} ${this.#title(given)}`;
        const sample = this.#player.add({ name, details: {}, frames: [] });
        player.hidden = false;
        if (!samples.size) {
          this.#player.select(sample);
          player.scrollIntoView({ block: "nearest" });
        }
        samples.set(index, sample);
      }
      this.#player.append(samples.get(index), frame, pieces);
      status.textContent = `writing, call ${frame.call}`;
    }

    #title({ template, prompt }) {
      const parts = Array.isArray(template) ? template : [template ?? prompt];
      const title = parts.map((part) => part ?? "…").join("").replaceAll(/\s+/g, " ").trim();
      return title.length > SHORT ? `${title.slice(0, SHORT - 1)}…` : title;
    }

    #describe(samples, results) {
      results.forEach(({ seed, calls, tokens }, index) => {
        this.#player.describe(samples.get(index), { seed, calls, tokens: tokens.length });
      });
      const calls = results.reduce((sum, result) => sum + result.calls, 0);
      this.#parts.status.textContent = `written: ${many(results.length, "sample")}, ${many(calls, "call")}`;
    }

    /** Makes the text what was written, and selects that if it stands in one place. */
    #take({ template, prompt }, choice) {
      const { text } = this.#parts;
      text.value = template === undefined ? prompt + choice.text : choice.text;
      if (!Array.isArray(template)) return;
      const start = template[0].length;
      const [generated] = choice.generated;
      text.focus();
      text.setSelectionRange(start, start + generated.length);
    }
  };
})();
