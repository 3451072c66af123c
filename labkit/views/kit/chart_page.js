// In a chart's exported page: what a shape's title says is shown at once where it is pointed at.

const said = document.getElementById("said");

/** @param {PointerEvent} event */
function show(event) {
  const shape = event.target instanceof Element ? event.target.closest("svg > *") : null;
  const title = shape?.querySelector("title");
  if (said === null) return;
  said.hidden = !title;
  if (!title) return;
  said.textContent = title.textContent;
  const { width, height } = said.getBoundingClientRect();
  said.style.left = `${Math.max(4, Math.min(event.clientX + 12, window.innerWidth - width - 8))}px`;
  const above = event.clientY - height - 12;
  said.style.top = `${above > 4 ? above : event.clientY + 16}px`;
}

document.addEventListener("pointermove", show);
document.addEventListener("pointerdown", show);
