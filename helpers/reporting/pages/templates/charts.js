for (const plot of document.querySelectorAll('.plot')) {
  const data = JSON.parse(plot.dataset.points), field = plot.querySelector('.field');
  const hair = field.querySelector('.hair'), tooltip = field.querySelector('.tooltip');
  const hide = () => { hair.hidden = tooltip.hidden = true; };
  field.addEventListener('pointermove', event => {
    const box = field.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
    const step = data.low + share * (data.high - data.low), lines = [];
    let at = null;
    for (const [name, points] of data.series) {
      if (!points.length) continue;
      const near = points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
      at = at === null || Math.abs(near[0] - step) < Math.abs(at - step) ? near[0] : at;
      lines.push(`${name}: ${Number(near[1].toPrecision(4)).toLocaleString('en', {maximumSignificantDigits: 4})}`);
    }
    if (at === null) return;
    const place = (at - data.low) / (data.high - data.low) * 100;
    hair.style.left = place + '%';
    tooltip.style.left = place < 50 ? `calc(${place}% + .5rem)` : '';
    tooltip.style.right = place < 50 ? '' : `calc(${100 - place}% + .5rem)`;
    tooltip.textContent = `step ${Math.round(at).toLocaleString('en')}\n` + lines.join('\n');
    hair.hidden = tooltip.hidden = false;
  });
  field.addEventListener('pointerleave', hide);
}
