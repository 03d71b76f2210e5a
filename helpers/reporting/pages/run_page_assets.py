"""The look of the run's page beyond what all pages share, and the little that moves on it."""

STYLE = """
.head { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: baseline; }
.badge { border-radius: 99px; padding: .1rem .75rem; font-size: .85rem; border: 1px solid currentColor;
  color: var(--accent); }
.badge.failed { color: var(--warn); } .badge.finished { color: var(--good); }
:root { --good: #237a3b; --third: #7a4fc4; --fourth: #23807a; }
@media (prefers-color-scheme: dark) { :root { --good: #74c98a; --third: #b99bf2; --fourth: #69c7c0; } }
progress { width: 100%; height: .6rem; margin: 1rem 0 0; appearance: none; border: 0; border-radius: 99px;
  overflow: hidden; background: var(--line); }
progress::-webkit-progress-bar { background: var(--line); }
progress::-webkit-progress-value { background: var(--accent); }
progress::-moz-progress-bar { background: var(--accent); }
.tiles { grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .5rem; }
.tile { padding: .5rem .75rem; line-height: 1.3; } .tile b { font-size: 1.15rem; white-space: nowrap; }
.tile span { font-size: .82rem; }
.card { margin-top: .75rem; min-width: 0; } .cards .card { margin-top: 0; } .cards { margin-top: .75rem; }
.warnings { border-color: var(--warn); } .warnings ul { margin: .25rem 0 0; padding-left: 1.2rem; }
.message { white-space: pre-wrap; overflow-wrap: anywhere; }
.caption { margin: 0 0 .6rem; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.compare { flex: 1 1 18rem; max-width: min(24rem, calc(28rem * var(--ratio))); --cut: 50%; }
.stack { position: relative; aspect-ratio: var(--ratio); border-radius: 8px; overflow: hidden;
  touch-action: pan-y; cursor: ew-resize; }
.stack img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: cover; }
.stack .over { clip-path: inset(0 calc(100% - var(--cut)) 0 0); }
.stack i { position: absolute; top: 0; bottom: 0; left: calc(var(--cut) - 1px); width: 2px;
  background: #fff; box-shadow: 0 0 3px #0009; }
.stack span { position: absolute; bottom: .4rem; padding: 0 .5rem; border-radius: 99px; font-size: .75rem;
  color: #fff; background: #000a; }
.stack .left { left: .4rem; } .stack .right { right: .4rem; }
.compare input { width: 100%; margin: .4rem 0 0; accent-color: var(--accent); }
.steps { flex: 2 1 18rem; display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .5rem; }
.step { font: inherit; color: var(--soft); font-size: .78rem; padding: 0;
  border: 0; background: none; cursor: pointer; }
.step img { display: block; width: 100%; height: auto; border-radius: 6px;
  outline: 2px solid transparent; outline-offset: 1px; }
.step[aria-pressed=true] { color: var(--ink); } .step[aria-pressed=true] img { outline-color: var(--accent); }
.step:focus-visible img { outline-color: var(--second); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: 400; }
th { color: var(--soft); } td { overflow-wrap: anywhere; }
summary { cursor: pointer; } .groups { columns: 22rem; column-gap: 2rem; } .groups section { break-inside: avoid; }
@media (max-width: 30rem) { body { padding: 1rem .75rem 3rem; } .card, .tile { padding: .6rem .7rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: .5rem; }
  .compare { max-width: calc(32rem * var(--ratio)); }
  .plot.tall .field { height: 13rem; } .steps { grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); } }
"""

SCRIPT = """
for (const card of document.querySelectorAll('.prompt')) {
  const box = card.querySelector('.compare'), steps = [...card.querySelectorAll('.step')];
  if (!box) continue;
  const stack = box.querySelector('.stack'), range = box.querySelector('input');
  const show = (place, side, step) => {
    const image = step.querySelector('img');
    box.querySelector(place).src = image.src; box.querySelector(place).alt = image.alt;
    box.querySelector(side).textContent = step.textContent;
  };
  const choose = step => {
    show('.under', '.right', step);
    for (const each of steps) each.setAttribute('aria-pressed', each === step);
  };
  const cut = () => box.style.setProperty('--cut', range.value + '%');
  const drag = event => {
    const area = stack.getBoundingClientRect();
    range.value = (event.clientX - area.left) / area.width * 100; cut();
  };
  range.addEventListener('input', cut);
  stack.addEventListener('pointerdown', event => { stack.setPointerCapture(event.pointerId); drag(event); });
  stack.addEventListener('pointermove', event => { if (event.buttons) drag(event); });
  for (const step of steps) step.addEventListener('click', () => choose(step));
  show('.over', '.left', steps[0]); choose(steps.at(-1)); box.hidden = false;
}
"""

RELOAD = """
{ const place = 'run page ' + location.pathname;
  let busy = false, kept = null;
  try { kept = JSON.parse(sessionStorage.getItem(place)); } catch {}
  const inputs = () => [...document.querySelectorAll('input[type=range]')];
  const steps = () => [...document.querySelectorAll('.step')], name = step => step.querySelector('img').alt;
  const older = () => steps().filter(each => each.getAttribute('aria-pressed') === 'true' && each.nextElementSibling);
  const folds = () => [...document.querySelectorAll('details')];
  if (kept) {
    folds().forEach((each, n) => { each.open = kept.folds[n] ?? each.open; });
    inputs().forEach((each, n) => { each.value = kept.inputs[n] ?? 50; each.dispatchEvent(new Event('input')); });
    kept.chosen.forEach(said => steps().find(each => name(each) === said)?.click());
    scrollTo(0, kept.top);
  }
  addEventListener('pointerdown', () => { busy = true; });
  for (const end of ['pointerup', 'pointercancel']) addEventListener(end, () => { busy = false; });
  const keep = () => {
    const state = { top: scrollY, folds: folds().map(each => each.open), inputs: inputs().map(each => each.value),
      chosen: older().map(name) };
    try { sessionStorage.setItem(place, JSON.stringify(state)); } catch {}
  };
  addEventListener('pagehide', keep);
  setInterval(() => { if (!busy && !document.hidden) location.reload(); }, SECONDS * 1000);
  const old = document.querySelector('[data-written]'), age = Date.now() / 1000 - old.dataset.written;
  if (age > 900)
    old.textContent += `, ${Math.round(age / 60).toLocaleString('en')} minutes ago: the run may have been stopped`;
}
"""


def reload_script(seconds: float) -> str:
    """What lets an open page look for a newer one of itself, and stay where it is."""
    return RELOAD.replace("SECONDS", f"{seconds:g}")
