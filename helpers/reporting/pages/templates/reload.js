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
    kept.chosen.forEach(label => steps().find(each => name(each) === label)?.click());
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
  setInterval(() => { if (!busy && !document.hidden) location.reload(); }, document.body.dataset.reloadSeconds * 1000);
  const old = document.querySelector('[data-written]'), age = Date.now() / 1000 - old.dataset.written;
  if (age > 900)
    old.textContent += `, ${Math.round(age / 60).toLocaleString('en')} minutes ago: the run may have stopped`;
}
