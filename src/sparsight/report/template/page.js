"use strict";
// Plots take the colours of the page, which the reader's system may switch between light and dark.
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function coloured(layout) {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
  const axis = { color: ink, gridcolor: line, linecolor: line };
  return {
    ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, family: "system-ui, sans-serif", size: 12 },
    xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis },
  };
}
function draw() {
  for (const [name, plot] of Object.entries(plots)) {
    const place = document.getElementById("plot-" + name);
    Plotly.react(place, plot.data, coloured(plot.layout), { responsive: true, displayModeBar: false });
  }
}
draw();
dark.addEventListener("change", draw);
window.addEventListener("beforeprint", () => {
  for (const place of document.querySelectorAll(".plot")) Plotly.Plots.resize(place);
});
