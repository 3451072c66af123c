// The map on its canvases: thumbnails with a bar under each, and over them the frames of heads that are shown, marked or in focus.

import { sized } from "../kit/canvas.js";

export const EDGE = 2; // CSS pixels around the map, for the frames of its outermost heads
const PALE = 0.55; // how much is seen of a head that can't be opened

/** @param {import("./map_state.js").HeadMap} map */
export function mapPainter(map) {
  const { shared } = map;
  /** A thumbnail in colour; null where it has not come yet. @param {number} place */
  function thumbnail(place) {
    const codes = map.decoded.thumbnails.get(place);
    return codes ? shared.picture(codes, map.decoded.side) : null;
  }

  /** @param {HTMLCanvasElement} canvas */
  function heads(canvas) {
    const { size, bar, caption, width, height } = map.layout;
    const brush = sized(canvas, width, height);
    const [wash, accent, ink, negative] = ["--lk-wash", "--lk-accent", "--lk-muted", "--lk-unsure"].map((name) => shared.view.theme.colour(name));
    const { even } = map;
    const values = map.values();
    const top = Math.max(1e-9, ...map.finite.map(Math.abs));
    brush.font = "8px system-ui, sans-serif";
    map.order.forEach((place, slot) => {
      const { x, y } = map.corner(slot);
      brush.fillStyle = wash;
      brush.fillRect(x, y, size, size);
      const small = thumbnail(place);
      if (small) {
        brush.imageSmoothingEnabled = size * brush.getTransform().a < small.width;
        brush.globalAlpha = map.there(...map.headOf(place)) ? 1 : PALE;
        brush.drawImage(small, x, y, size, size);
        brush.globalAlpha = 1;
      }
      if (caption > 0) {
        brush.fillStyle = ink;
        brush.fillText(map.headOf(place).join("·"), x, y + size + bar + caption - 2);
      }
      const value = values?.[place];
      if (!value || Number.isNaN(value)) return;
      brush.fillStyle = value > 0 ? accent : negative;
      brush.fillRect(x, y + size + 1, Math.max(1, (size * Math.abs(value)) / top), Math.max(1, bar - 1));
      if (even !== null && even > 0 && size > 12) {
        brush.fillStyle = ink;
        brush.fillRect(x + Math.min(size - 1, (size * even) / top), y + size, 1, bar + 1);
      }
    });
  }

  /** @param {HTMLCanvasElement} canvas */
  function frames(canvas) {
    const { size, width, height } = map.layout;
    const { view } = shared;
    const brush = sized(canvas, width + 2 * EDGE, height + 2 * EDGE);
    brush.translate(EDGE, EDGE);
    brush.fillStyle = shared.view.theme.colour("--lk-unsure");
    for (const [layer, head] of view.get("marked")) {
      const { x, y } = map.corner(map.slotOf(layer, head));
      const corner = Math.max(5, size / 2.5);
      brush.beginPath();
      brush.moveTo(x + size - corner, y);
      brush.lineTo(x + size, y);
      brush.lineTo(x + size, y + corner);
      brush.fill();
    }
    /** @type {(slot: number | null, colour: string, line: number, dash?: number[]) => void} */
    const frame = (slot, colour, line, dash = []) => {
      if (slot === null || slot < 0) return;
      const { x, y } = map.corner(slot);
      brush.strokeStyle = colour;
      brush.lineWidth = line;
      brush.setLineDash(dash);
      brush.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1);
    };
    const [, besideLayer, besideHead] = view.get("beside");
    frame(map.slotOf(besideLayer, besideHead), shared.view.theme.colour("--lk-focus"), 2, [3, 2]);
    frame(map.slotOf(view.get("layer"), view.get("head")), shared.view.theme.colour("--lk-focus"), 2);
    frame(map.pointed ?? map.cursor, shared.view.theme.colour("--lk-ink"), 1);
  }

  return { thumbnail, heads, frames };
}
