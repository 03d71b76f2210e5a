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
  const split = () => box.style.setProperty('--split', range.value + '%');
  const drag = event => {
    const area = stack.getBoundingClientRect();
    range.value = (event.clientX - area.left) / area.width * 100; split();
  };
  range.addEventListener('input', split);
  stack.addEventListener('pointerdown', event => { stack.setPointerCapture(event.pointerId); drag(event); });
  stack.addEventListener('pointermove', event => { if (event.buttons) drag(event); });
  for (const step of steps) step.addEventListener('click', () => choose(step));
  show('.over', '.left', steps[0]); choose(steps.at(-1)); box.hidden = false;
}
