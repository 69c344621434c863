"use strict";
// Plots take the colours of the page, which the reader's system may switch between light and dark.
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const PAPER_PX = 640;  // fits the width of A4 and of letter paper, with their margins
function coloured(layout, printed) {
  const style = getComputedStyle(document.documentElement);
  const ink = printed ? "#000000" : style.getPropertyValue("--ink").trim();
  const line = printed ? "#bbbbbb" : style.getPropertyValue("--line").trim();
  const axis = { color: ink, gridcolor: line, linecolor: line };
  return {
    ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: "system-ui, sans-serif", size: 12 },
    xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis },
  };
}
function draw(printed = false) {
  for (const [name, plot] of Object.entries(plots)) {
    const place = document.getElementById("plot-" + name);
    const size = printed ? { width: PAPER_PX, height: 320, autosize: false } : { autosize: true };
    Plotly.react(place, plot.data, { ...coloured(plot.layout, printed), ...size },
      { responsive: !printed, displayModeBar: false });
  }
}
draw();
dark.addEventListener("change", () => draw());
window.addEventListener("beforeprint", () => draw(true));
window.addEventListener("afterprint", () => draw());
