/**
 * FlexMDMPlayer plays how texts came about: masks inserted, tokens unmasked, corrections.
 *
 *     const player = new FlexMDMPlayer(element, {mask: 0, pieces: {}, traces: []});
 *     const sample = player.add({name: "a request", details: {seed: 0}, frames: []});
 *     player.append(sample, {call: 0, time: 0});
 *     player.append(sample, {call: 1, time: 0.1, inserted: [[0, 0]]});
 *     player.append(sample, {call: 2, time: 1, altered: [[0, 7, 0.9]]}, {7: "Yes"});
 *
 * encoding.py says what frames and pieces look like. Who looks at the last frame of a text goes on
 * to the next one that is appended. Needs player.css beside it and nothing else; what texts hold
 * reaches the page as text alone.
 */
const FlexMDMPlayer = (() => {
  "use strict";

  // Confidences that part the steps of the scale of colours, and what the legend calls the steps.
  const EDGES = [0.1, 0.3, 0.6, 0.9];
  const STEPS = ["<10", "10–30", "30–60", "60–90", "≥90 %"];
  // The text is kept whole after every so many frames; those between are made from it.
  const STRIDE = 32;
  // At speed 1 a text plays for 15 seconds, at no fewer and no more frames a second than these.
  const SECONDS = 15;
  const SLOWEST = 3;
  const FASTEST = 60;
  const SPEEDS = [["¼ ×", 0.25], ["½ ×", 0.5], ["1 ×", 1], ["2 ×", 2], ["4 ×", 4]];
  const MASK_GLYPH = "▒";
  const MASK_NAMES = { mask: "mask", arrived: "new mask", again: "masked again" };
  // Line breaks, tabs, controls, and what would turn the text around; joiners are part of words.
  const UNSEEN = /((?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}])/u;
  const ICONS = {
    above: "M15 5l-7 7 7 7",
    below: "M9 5l7 7-7 7",
    first: "M6 5v14M19 5 9 12l10 7z",
    back: "M17 5 7 12l10 7z",
    play: "M7 4v16l13-8z",
    pause: "M8.5 5v14M15.5 5v14",
    forward: "M7 5l10 7-10 7z",
    last: "M18 5v14M5 5l10 7-10 7z",
  };

  const encoder = new TextEncoder();
  const lenient = new TextDecoder("utf-8", { ignoreBOM: true });
  const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

  /** Returns a new element of HTML. */
  function make(name, attributes = {}, children = []) {
    return filled(document.createElement(name), attributes, children);
  }

  /** Returns a new element of SVG. */
  function draw(name, attributes, children = []) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    return filled(element, attributes, children);
  }

  function filled(element, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function button(icon, label) {
    const path = draw("path", { d: ICONS[icon] });
    const image = draw("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, [path]);
    return make("button", { type: "button", "aria-label": label, title: label }, [image]);
  }

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const shown = (value) => (typeof value === "boolean" ? (value ? "yes" : "no") : `${value}`);
  const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

  // ---- what happened ----------------------------------------------------------------------------

  function cellOf([, token, confidence = null, changed, fixed = false], call) {
    return { token, confidence, changed: changed ?? call, fixed };
  }

  /**
   * Returns what a frame makes of a text: its cells, what each was before (null: nothing), and in
   * gone, by places, what was removed in front of them.
   */
  function change(old, frame) {
    const removed = new Set(frame.removed);
    const inserted = new Map((frame.inserted ?? []).map((values) => [values[0], values]));
    const size = old.length - removed.size + inserted.size;
    const cells = [];
    const before = [];
    const gone = [];
    let next = 0;
    const skip = (place) => {
      for (; removed.has(next); next++) (gone[place] ??= []).push(old[next]);
    };
    for (let place = 0; place < size; place++) {
      const values = inserted.get(place);
      if (!values) skip(place);
      before.push(values ? null : old[next]);
      cells.push(values ? cellOf(values, frame.call) : old[next++]);
    }
    skip(size);
    for (const values of frame.altered ?? []) cells[values[0]] = cellOf(values, frame.call);
    return { cells, before, gone };
  }

  /** The frames of one text, and the text after any of them. */
  class Film {
    constructor({ name, details = {}, frames = [] }, mask) {
      this.name = name;
      this.details = details;
      this.frames = [...frames];
      this.lengths = [];
      this.masks = [];
      this.mask = mask;
      this.kept = [];
      this.last = [];
    }

    /** Measures the frames that have come since; of a text that nobody looks at there is no need. */
    develop() {
      for (let i = this.lengths.length; i < this.frames.length; i++) {
        this.last = change(this.last, this.frames[i]).cells;
        if (i % STRIDE === 0) this.kept.push(this.last);
        this.lengths.push(this.last.length);
        this.masks.push(this.last.reduce((sum, cell) => sum + (cell.token === this.mask), 0));
      }
    }

    cellsAfter(index) {
      if (index < 0) return [];
      const start = Math.floor(index / STRIDE);
      let cells = this.kept[start];
      for (let i = start * STRIDE + 1; i <= index; i++) cells = change(cells, this.frames[i]).cells;
      return cells;
    }

    /** Returns change() of a frame; what was there from the start was never new. */
    at(index) {
      const made = change(this.cellsAfter(index - 1), this.frames[index]);
      return index ? made : { ...made, before: made.cells };
    }
  }

  // ---- what is seen of it -----------------------------------------------------------------------

  /** What tokens stand for: a text each, or bytes where they are a part of a character. */
  class Pieces {
    #known = new Map();
    #mask;

    constructor(mask) {
      this.#mask = mask;
    }

    learn(pieces) {
      for (const [token, piece] of Object.entries(pieces)) {
        this.#known.set(Number(token), typeof piece === "string" ? piece : Uint8Array.from(piece));
      }
    }

    #of(token) {
      if (token === this.#mask) return MASK_GLYPH;
      return this.#known.get(token) ?? `⟨${token}⟩`;
    }

    /** Returns whether what stands from a place on begins in the middle of a character. */
    continues(tokens, place) {
      // Tokens without bytes go with those behind them.
      while (place < tokens.length && this.#of(tokens[place]).length === 0) place++;
      const piece = place < tokens.length ? this.#of(tokens[place]) : "";
      return typeof piece !== "string" && (piece[0] & 0xc0) === 0x80;
    }

    /** Returns the text of adjacent tokens, and its bytes where they are no UTF-8. */
    decode(tokens) {
      const pieces = tokens.map((token) => this.#of(token));
      if (pieces.every((piece) => typeof piece === "string")) return { text: pieces.join("") };
      const bytes = pieces.flatMap((piece) => [
        ...(typeof piece === "string" ? encoder.encode(piece) : piece),
      ]);
      const whole = Uint8Array.from(bytes);
      try {
        return { text: strict.decode(whole) };
      } catch {
        const hex = bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0"));
        return { text: lenient.decode(whole), broken: hex.join(" ") };
      }
    }
  }

  const stepOf = (confidence) => EDGES.filter((edge) => confidence >= edge).length;

  function percent(share) {
    return share < 0.001 ? "below 0.1 %" : `${Number((100 * share).toPrecision(3))} %`;
  }

  /** Returns the spans of change(), of the kinds of spans.py: {kind, text, title, step}. */
  function spansOf({ cells, before, gone }, pieces, mask) {
    const spans = [];
    const tokens = cells.map((cell) => cell.token);
    const takenBack = (list) => {
      if (!list.length) return;
      const { text } = pieces.decode(list.map((cell) => cell.token).filter((x) => x !== mask));
      spans.push({ kind: "gone", text, title: `taken back: ${text ? `“${text}”` : "a mask"}` });
    };
    for (let start = 0, end; start < cells.length; start = end) {
      const masked = cells[start].token === mask;
      for (end = start + 1; !masked && pieces.continues(tokens, end); end++);
      const was = before[start];
      const again = masked && was && was.token !== mask;
      // Sparse: what nothing has gone from, flat() leaves out.
      takenBack([...gone.slice(start, end).flat(), ...(again ? [was] : [])]);
      const kind = again ? "again" : was ? "mask" : "arrived";
      if (masked) spans.push({ kind, text: "", title: `mask · call ${cells[start].changed}` });
      else spans.push(spanOf(cells.slice(start, end), before.slice(start, end), pieces));
    }
    takenBack(gone[cells.length] ?? []);
    return spans;
  }

  /** Returns the span of tokens that share their characters; as a rule it is one. */
  function spanOf(cells, before, pieces) {
    const tokens = cells.map((cell) => cell.token);
    const { text, broken } = pieces.decode(tokens);
    const known = cells.map((cell) => cell.confidence).filter((share) => share !== null);
    const given = cells.every((cell) => cell.fixed);
    const old = cells.every((cell, i) => cell === before[i]);
    const title = [
      broken ? `not UTF-8: ${broken}` : `“${text}”`,
      `${tokens.length > 1 ? "tokens" : "token"} ${tokens.join(" + ")}`,
      given ? "given" : `call ${Math.max(...cells.map((cell) => cell.changed))}`,
      ...known.map(percent),
    ];
    return {
      kind: given ? "given" : old ? "token" : "new",
      text,
      title: title.join(" · "),
      step: known.length ? stepOf(Math.min(...known)) : undefined,
    };
  }

  function elementOf({ kind, text, title, step }) {
    if (kind === "gone") {
      const shown = text.replaceAll("\n", "↵") || MASK_GLYPH;
      return make("span", { class: kind, title, "data-text": shown });
    }
    if (Object.hasOwn(MASK_NAMES, kind)) {
      const label = MASK_NAMES[kind];
      return make("span", { class: kind, title, role: "img", "aria-label": label }, [MASK_GLYPH]);
    }
    const element = make("span", { class: kind, title });
    if (step !== undefined) element.classList.add(`step-${step}`);
    if (!text) element.classList.add("nothing");
    const parts = text.split(UNSEEN).filter(Boolean);
    element.append(...parts.map((part) => (UNSEEN.test(part) ? unseen(part) : part)));
    return element;
  }

  /** Returns the element of a character that would not be seen; its text is the character. */
  function unseen(character) {
    const kind = { "\n": "newline", "\t": "tab" }[character] ?? "control";
    const hex = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return make("span", { class: kind, "data-code": hex }, [character]);
  }

  /** A text on the page, of which only what differs is made anew. */
  class Sheet {
    #shown = [];

    constructor(element) {
      this.element = element;
    }

    show(spans) {
      // What was there before, by what it shows; of equals the first comes first.
      const there = new Map();
      for (const { key, element } of this.#shown.toReversed()) {
        if (!there.has(key)) there.set(key, []);
        there.get(key).push(element);
      }
      this.#shown = spans.map((span) => {
        const key = JSON.stringify(span);
        return { key, element: there.get(key)?.pop() ?? elementOf(span) };
      });
      for (const element of [...there.values()].flat()) element.remove();
      let next = this.element.firstChild;
      for (const { element } of this.#shown) {
        if (element === next) next = next.nextSibling;
        else this.element.insertBefore(element, next);
      }
    }
  }

  /** Length and masks against calls, and where in them the player is. */
  class Curves {
    #calls = 1;

    constructor(seek, signal) {
      const line = (name) => draw("path", { class: name, "vector-effect": "non-scaling-stroke" });
      this.paths = { area: line("area"), masks: line("masks"), length: line("length") };
      const plot = { class: "plot", role: "img", preserveAspectRatio: "none" };
      this.plot = draw("svg", plot, Object.values(this.paths));
      this.cursor = make("div", { class: "cursor" });
      this.names = { length: make("span"), masks: make("span") };
      const names = make("p", { class: "names" }, Object.values(this.names));
      this.element = make("div", { class: "curves" }, [this.plot, this.cursor, names]);
      const seekTo = (event) => {
        const { left, width } = this.plot.getBoundingClientRect();
        seek(clamp((event.clientX - left) / width, 0, 1) * this.#calls);
      };
      const press = (event) => {
        this.element.setPointerCapture(event.pointerId);
        seekTo(event);
      };
      const drag = (event) => this.element.hasPointerCapture(event.pointerId) && seekTo(event);
      this.element.addEventListener("pointerdown", press, { signal });
      this.element.addEventListener("pointermove", drag, { signal });
    }

    show({ frames, lengths, masks }) {
      const most = (values) => values.reduce((a, b) => Math.max(a, b), 0);
      const top = Math.max(most(lengths), 1);
      this.#calls = Math.max(frames.at(-1)?.call ?? 0, 1);
      const line = (values) => values.map((y, i) => `${frames[i].call} ${top - y}`).join("L");
      const [ofMasks, ofLength] = [line(masks), line(lengths)];
      this.plot.setAttribute("viewBox", `0 0 ${this.#calls} ${top}`);
      this.paths.length.setAttribute("d", ofLength && `M${ofLength}`);
      this.paths.masks.setAttribute("d", ofMasks && `M${ofMasks}`);
      this.paths.area.setAttribute("d", ofMasks && `M0 ${top}L${ofMasks}V${top}Z`);
      this.names.length.textContent = `length, up to ${most(lengths)}`;
      this.names.masks.textContent = `masks, up to ${most(masks)}`;
      const label = `Length, up to ${most(lengths)}, and masks, up to ${most(masks)}, by calls`;
      this.plot.setAttribute("aria-label", label);
    }

    move(call) {
      this.cursor.style.left = `${(100 * call) / this.#calls}%`;
    }
  }

  function legend() {
    const item = (sign, name) => make("li", {}, [...sign, name]);
    const sign = (kind) => make("span", { class: kind, "aria-hidden": "true" });
    const steps = STEPS.map((name, step) => make("span", { class: `new step-${step}` }, [name]));
    return make("ul", { class: "legend", "aria-label": "Legend" }, [
      item([], make("span", { class: "given" }, ["given"])),
      item([sign("mask")], "mask"),
      item([sign("arrived")], "new mask"),
      item([sign("again")], "masked again"),
      item([], make("span", { class: "gone", "data-text": "taken back" })),
      make("li", { class: "scale" }, ["confidence ", ...steps]),
    ]);
  }

  // ---- the player -------------------------------------------------------------------------------

  return class FlexMDMPlayer {
    #films = [];
    #pieces;
    #mask;
    #listening = new AbortController();
    #sample = 0;
    #position = 0;
    #playing = false;
    #tickedAt = 0;
    #owed = 0;
    #due = 0;
    #told = false;
    #plotted = {};
    #parts;

    /**
     * @param {HTMLElement} element Becomes the player.
     * @param {object} data What encoding.player_data() returns: mask, pieces and traces.
     * @param {EventTarget} keys Whose keys it obeys: the element, or document if the page is its
     *   own.
     */
    constructor(element, { mask, pieces = {}, traces = [] }, keys = element) {
      this.element = element;
      this.#mask = mask;
      this.#pieces = new Pieces(mask);
      this.#pieces.learn(pieces);
      this.#build();
      this.#listen(keys);
      for (const trace of traces) this.add(trace);
      this.#invalidate();
    }

    /** Makes the page dark if it is light, and light if it is dark. */
    static switchTheme() {
      const { style } = document.documentElement;
      const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
      const dark = style.colorScheme ? style.colorScheme === "dark" : prefersDark;
      style.colorScheme = dark ? "light" : "dark";
    }

    /** Adds a text; returns its number. */
    add(trace) {
      this.#films.push(new Film(trace, this.#mask));
      this.#parts.choice.append(make("option", {}, [trace.name]));
      if (this.#films.length === 1) this.#position = Math.max(this.count - 1, 0);
      this.#invalidate();
      return this.#films.length - 1;
    }

    /** Adds a frame to a text, and what tokens stand for that were not known before. */
    append(sample, frame, pieces = {}) {
      const { frames } = this.#films[sample];
      const follows = sample === this.#sample && this.#position >= frames.length - 1;
      this.#pieces.learn(pieces);
      frames.push(frame);
      if (follows) this.#position = frames.length - 1;
      this.#invalidate();
    }

    /** Adds to what is shown beside a text. */
    describe(sample, details) {
      Object.assign(this.#films[sample].details, details);
      this.#invalidate();
    }

    /** Goes to a text: to its end or, while playing, to its start. */
    select(sample) {
      this.#sample = clamp(sample, 0, Math.max(this.#films.length - 1, 0));
      this.show(this.#playing ? 0 : Infinity);
    }

    /** Goes to a frame of the text. */
    show(position) {
      this.#position = clamp(position, 0, Math.max(this.count - 1, 0));
      this.#told = false;
      this.#invalidate();
    }

    /** Plays on, or from the start if it is at the end. */
    play() {
      if (this.#playing || this.count < 2) return;
      if (this.#position >= this.count - 1) this.#position = 0;
      this.#playing = true;
      this.#owed = 0;
      this.#tickedAt = performance.now();
      requestAnimationFrame(this.#tick);
      this.#invalidate();
    }

    pause() {
      this.#playing = false;
      this.#invalidate();
    }

    /** Takes the player off the page. */
    destroy() {
      this.#listening.abort();
      this.#playing = false;
      cancelAnimationFrame(this.#due);
      this.element.replaceChildren();
    }

    get sample() {
      return this.#sample;
    }

    get position() {
      return this.#position;
    }

    get playing() {
      return this.#playing;
    }

    /** How many frames the text has. */
    get count() {
      return this.#films[this.#sample]?.frames.length ?? 0;
    }

    #tick = (now) => {
      if (!this.#playing) return;
      const rate = clamp(this.count / SECONDS, SLOWEST, FASTEST) * this.#parts.speed.value;
      this.#owed += (Math.max(now - this.#tickedAt, 0) * rate) / 1000;
      this.#tickedAt = now;
      const frames = Math.floor(this.#owed);
      this.#owed -= frames;
      this.#position = Math.min(this.#position + frames, this.count - 1);
      if (this.#position === this.count - 1) this.pause();
      else requestAnimationFrame(this.#tick);
      this.#invalidate();
    };

    #step(by) {
      this.pause();
      this.show(this.#position + by);
    }

    #toggle() {
      if (this.#playing) this.pause();
      else this.play();
    }

    /** Goes to the frame that is nearest to a call. */
    #seek(call) {
      const away = (this.#films[this.#sample]?.frames ?? []).map((x) => Math.abs(x.call - call));
      this.pause();
      this.show(away.reduce((best, distance, i) => (distance < away[best] ? i : best), 0));
    }

    #build() {
      const { signal } = this.#listening;
      const parts = {
        above: button("above", "Sample before"),
        choice: make("select", { "aria-label": "Sample" }),
        below: button("below", "Next sample"),
        details: make("dl"),
        mono: make("button", { type: "button", class: "word", "aria-pressed": false }, ["mono"]),
        text: make("div", { class: "text", dir: "auto", lang: "", role: "region" }),
        inspected: make("p", { class: "inspected", role: "status" }),
        curves: new Curves((call) => this.#seek(call), signal),
        slider: make("input", { type: "range", min: 0, "aria-label": "Frame" }),
        first: button("first", "First frame"),
        back: button("back", "Frame before"),
        play: button("play", "Play"),
        forward: button("forward", "Next frame"),
        last: button("last", "Last frame"),
        speed: make("select", { "aria-label": "Speed" }),
        figures: make("p", { class: "figures" }),
        status: make("p", { class: "heard", role: "status" }),
      };
      for (const [name, value] of SPEEDS) parts.speed.append(make("option", { value }, [name]));
      parts.speed.value = 1;
      parts.text.setAttribute("aria-label", "Text");
      const { above, choice, below, details, mono, text, inspected, curves, slider } = parts;
      const { first, back, play, forward, last, speed, figures, status } = parts;
      const buttons = make("div", { class: "buttons" }, [first, back, play, forward, last, speed]);
      const controls = make("div", { class: "controls" }, [buttons, figures]);
      const samples = make("div", { class: "samples" }, [above, choice, below]);
      this.element.classList.add("flexmdm", "flexmdm-player");
      // A click on the text then gives its keys to the player.
      this.element.tabIndex = -1;
      this.element.replaceChildren(
        make("header", {}, [samples, details, mono]),
        text,
        make("footer", {}, [
          inspected,
          legend(),
          make("div", { class: "bar" }, [curves.element, slider, controls, status]),
        ]),
      );
      this.#parts = { ...parts, sheet: new Sheet(text) };
    }

    #listen(keys) {
      const parts = this.#parts;
      const { signal } = this.#listening;
      const on = (target, kind, act) => target.addEventListener(kind, act, { signal });
      on(parts.above, "click", () => this.select(this.#sample - 1));
      on(parts.below, "click", () => this.select(this.#sample + 1));
      on(parts.choice, "change", () => this.select(parts.choice.selectedIndex));
      on(parts.mono, "click", () => {
        const mono = this.element.classList.toggle("mono");
        parts.mono.setAttribute("aria-pressed", mono);
      });
      on(parts.first, "click", () => this.#step(-Infinity));
      on(parts.back, "click", () => this.#step(-1));
      on(parts.play, "click", () => this.#toggle());
      on(parts.forward, "click", () => this.#step(1));
      on(parts.last, "click", () => this.#step(Infinity));
      on(parts.slider, "input", () => {
        this.pause();
        this.show(Number(parts.slider.value));
      });
      // Where nothing hovers, a touch asks for what a title says.
      on(parts.text, "click", ({ target }) => {
        parts.inspected.textContent = target.closest("[title]")?.title ?? "";
      });
      on(keys, "keydown", (event) => this.#obey(event));
    }

    #obey(event) {
      const { target, key } = event;
      // Where nothing is played the page has its keys.
      if (!this.count) return;
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = target.closest?.("input, textarea, select, [contenteditable]");
      if (typing && target !== this.#parts.slider) return;
      // It presses a button that has the focus.
      if (key === " " && target.closest?.("button, a, summary")) return;
      const acts = {
        ArrowLeft: () => this.#step(-1),
        ArrowRight: () => this.#step(1),
        Home: () => this.#step(-Infinity),
        End: () => this.#step(Infinity),
        ArrowUp: () => this.select(this.#sample - 1),
        ArrowDown: () => this.select(this.#sample + 1),
        " ": () => this.#toggle(),
      };
      if (!Object.hasOwn(acts, key)) return;
      event.preventDefault();
      acts[key]();
    }

    /** Has everything drawn once before the page is painted, however much has happened. */
    #invalidate() {
      this.#due ||= requestAnimationFrame(() => {
        this.#due = 0;
        this.#draw();
      });
    }

    #draw() {
      const { sheet, curves, choice } = this.#parts;
      const film = this.#films[this.#sample] ?? new Film({ name: "" }, this.#mask);
      film.develop();
      const position = this.#position;
      const count = film.frames.length;
      if (this.#plotted.film !== film || this.#plotted.count !== count) curves.show(film);
      this.#plotted = { film, count };
      sheet.show(count ? spansOf(film.at(position), this.#pieces, this.#mask) : []);
      curves.move(film.frames[position]?.call ?? 0);
      choice.selectedIndex = this.#sample;
      this.#drawControls(position, count);
      this.#drawFigures(film, position);
      const entries = Object.entries(film.details).map(([name, value]) =>
        make("div", {}, [make("dt", {}, [name]), make("dd", {}, [shown(value)])]),
      );
      this.#parts.details.replaceChildren(...entries);
    }

    #drawControls(position, count) {
      const { above, below, first, back, play, forward, last, slider } = this.#parts;
      // Not `disabled`, which would take the focus away from who presses them.
      const allow = (element, may) => element.setAttribute("aria-disabled", !may);
      allow(above, this.#sample > 0);
      allow(below, this.#sample < this.#films.length - 1);
      for (const element of [first, back]) allow(element, position > 0);
      for (const element of [forward, last]) allow(element, position < count - 1);
      allow(play, count > 1);
      play.querySelector("path").setAttribute("d", this.#playing ? ICONS.pause : ICONS.play);
      play.title = this.#playing ? "Pause" : "Play";
      play.setAttribute("aria-label", play.title);
      slider.max = Math.max(count - 1, 0);
      slider.value = position;
    }

    #drawFigures({ frames, lengths, masks }, position) {
      const { figures, slider, status } = this.#parts;
      const { call, time } = frames[position] ?? { call: 0, time: 0 };
      const texts = [
        `call ${call}/${frames.at(-1)?.call ?? 0}`,
        `time ${time.toFixed(3)}`,
        many(lengths[position] ?? 0, "token"),
        many(masks[position] ?? 0, "mask"),
      ];
      figures.replaceChildren(...texts.map((text) => make("span", {}, [text])));
      slider.setAttribute("aria-valuetext", texts.join(", "));
      if (!this.#told && !this.#playing) status.textContent = texts.join(", ");
      this.#told = true;
    }
  };
})();
