// One tooltip for the page: any element with data-tip shows it, under the pointer or the keyboard focus.

import { h } from "./dom";

export interface Tip {
  show(text: string, at: DOMRect): void;
  hide(): void;
}

export function tooltip(root: HTMLElement): Tip {
  const box = h("div", { class: "tip", role: "tooltip", hidden: true });
  root.append(box);
  const show = (text: string, at: DOMRect): void => {
    box.textContent = text;
    box.hidden = false;
    const size = box.getBoundingClientRect();
    const edge = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), edge - size.width - 8);
    const above = at.top - size.height - 8;
    box.style.left = `${left}px`;
    box.style.top = `${above > 4 ? above : at.bottom + 8}px`;
  };
  const hide = (): void => {
    box.hidden = true;
  };
  const from = (event: Event): void => {
    const target = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (target) show(target.getAttribute("data-tip") ?? "", target.getBoundingClientRect());
    else hide();
  };
  // Nothing stays behind when the page scrolls: what has the focus takes its tooltip along.
  const scrolled = (): void => {
    if (!root.isConnected) document.removeEventListener("scroll", scrolled, true);
    const target = box.hidden ? null : root.querySelector("[data-tip]:focus-visible");
    const at = target?.getBoundingClientRect();
    if (target && at && at.bottom > 0 && at.top < window.innerHeight) show(target.getAttribute("data-tip") ?? "", at);
    else hide();
  };
  document.addEventListener("scroll", scrolled, { capture: true, passive: true });
  root.addEventListener("pointerover", from);
  root.addEventListener("pointerleave", hide);
  root.addEventListener("focusin", from);
  root.addEventListener("focusout", hide);
  return { show, hide };
}
