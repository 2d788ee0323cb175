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
  const folded = [...document.querySelectorAll("details:not([open])")];
  addEventListener("beforeprint", () => folded.forEach((part) => (part.open = true)));
  addEventListener("afterprint", () => folded.forEach((part) => (part.open = false)));

  const buttons = [...document.querySelectorAll("[data-filter]")];
  const answers = [...document.querySelectorAll("[data-kind]")];
  const count = document.getElementById("shown");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const wanted = button.dataset.filter;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      let shown = 0;
      for (const answer of answers) {
        const fits =
          wanted === "all" || (wanted === "changed" ? answer.dataset.changed === "yes" : answer.dataset.kind === wanted);
        answer.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      count.textContent = `${shown} shown`;
    });
  }
})();
