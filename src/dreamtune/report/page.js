// Draws the charts and filters the answers. Everything else works without it.
(() => {
  "use strict";
  for (const holder of document.querySelectorAll("[data-spec]")) {
    const spec = JSON.parse(document.getElementById(holder.dataset.spec).textContent);
    spec.description = holder.dataset.description;
    vegaEmbed(holder, spec, { renderer: "svg", actions: false, tooltip: { theme: "custom" } })
      .then((drawn) => {
        const image = holder.querySelector("svg");
        if (image) image.setAttribute("aria-hidden", "true"); // the figure has a sentence and a table instead
        addEventListener("beforeprint", () => drawn.view.resize().run());
      })
      .catch((error) => {
        holder.textContent = "This chart could not be drawn; its numbers stand in the table below.";
        console.error(error);
      });
  }

  // What is folded away on the screen is printed.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((part) => (part.open = true));
    if (more && !more.parentElement.hidden) more.click();
  });
  addEventListener("afterprint", () => folded.forEach((part) => (part.open = false)));

  const buttons = [...document.querySelectorAll("[data-filter]")];
  const answers = [...document.querySelectorAll("[data-kind]")];
  const count = document.getElementById("shown");
  const where = document.getElementById("where");
  const find = document.getElementById("find");
  const fold = document.getElementById("fold");
  const more = document.getElementById("more");
  let limit = 20; // answers in the list until all are asked for
  const visible = new Map(); // answer -> its words, without the data of its replay
  const wordsOf = (answer) => {
    if (!visible.has(answer)) {
      const parts = [...answer.querySelectorAll("h3, .meta, h4, pre")];
      visible.set(answer, parts.map((part) => part.textContent.toLowerCase()).join("\n"));
    }
    return visible.get(answer);
  };
  const filter = () => {
    const wanted = buttons.find((button) => button.getAttribute("aria-pressed") === "true").dataset.filter;
    const words = find.value.trim().toLowerCase();
    let found = 0;
    for (const answer of answers) {
      const kind =
        wanted === "all" || (wanted === "changed" ? answer.dataset.changed === "yes" : answer.dataset.kind === wanted);
      const place = !where || !where.value || answer.dataset.where === where.value;
      const fits = kind && place && (!words || wordsOf(answer).includes(words));
      found += fits ? 1 : 0;
      answer.hidden = !fits || found > limit;
    }
    count.textContent = found > limit ? `${limit} of ${found} answers` : `${found} answer${found === 1 ? "" : "s"}`;
    more.textContent = `Show all ${found}`;
    more.parentElement.hidden = found <= limit;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }
  if (fold) {
    fold.hidden = false;
    fold.addEventListener("click", () => {
      const open = fold.textContent === "Open all";
      for (const answer of answers) answer.firstElementChild.open = open;
      fold.textContent = open ? "Close all" : "Open all";
    });
  }
  if (where) where.addEventListener("change", filter);
  if (find) find.addEventListener("input", filter);
  if (more) {
    more.addEventListener("click", () => {
      limit = Infinity;
      filter();
    });
    filter();
  }

  // The scrubber: tokens appear at the step that unmasked them, and keep that step's colour.
  const REPLAY_MS = 5000;
  const tokensOf = (pre, { pieces, steps }, last) => {
    pre.textContent = "";
    return pieces.map((piece, i) => {
      const token = pre.appendChild(document.createElement("span"));
      token.textContent = piece;
      token.title = `step ${steps[i] + 1}`;
      token.style.setProperty("--at", last > 1 ? steps[i] / (last - 1) : 0);
      return { token, step: steps[i] };
    });
  };
  for (const controls of document.querySelectorAll(".replay")) {
    const article = controls.closest("article");
    const [play, slider, output] = controls.children;
    const replays = JSON.parse(article.querySelector(".steps").textContent);
    const last = Math.max(...Object.values(replays).flatMap((replay) => replay.steps)) + 1;
    let tokens = null;
    let timer = null;
    const show = (step) => {
      tokens ??= Object.entries(replays).flatMap(([who, replay]) =>
        tokensOf(article.querySelector(`[data-who="${who}"]`), replay, last),
      );
      for (const { token, step: at } of tokens) {
        token.className = `token${at >= step ? " hidden" : at === step - 1 && step < last ? " new" : ""}`;
        token.setAttribute("aria-hidden", String(at >= step));
      }
      slider.value = step;
      output.textContent = `step ${step} of ${last}, blue: unmasked early, amber: late`;
      slider.setAttribute("aria-valuetext", `step ${step} of ${last}`);
    };
    const pause = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Replay";
    };
    slider.max = last;
    slider.value = last;
    output.textContent = `${last} denoising steps`;
    slider.addEventListener("input", () => {
      pause();
      show(Number(slider.value));
    });
    play.addEventListener("click", () => {
      if (timer) return pause();
      let step = Number(slider.value) >= last ? 0 : Number(slider.value);
      play.textContent = "Pause";
      show(step);
      timer = setInterval(() => {
        step += 1;
        show(step);
        if (step >= last) pause();
      }, REPLAY_MS / last);
    });
    controls.hidden = false;
  }
})();
