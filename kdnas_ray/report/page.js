'use strict';
const root = document.documentElement;
const charts = [...document.querySelectorAll('[data-chart]')];
const json = id => { const found = document.getElementById(id); return found && JSON.parse(found.textContent); };

// Plotly reads no style sheet: the colours of the paper are read here and given to it.
const paper = () => {
  const probe = document.body.appendChild(document.createElement('i'));
  const read = name => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
  const found = { soft: read('soft'), line: read('line'), card: read('card'), ink: read('ink') };
  probe.remove();
  return found;
};
const coloured = (figure, colours = paper()) => {
  const change = { 'font.color': colours.soft, paper_bgcolor: colours.card, 'hoverlabel.bgcolor': colours.card, 'hoverlabel.font.color': colours.ink };
  for (const axis of Object.keys(figure.layout).filter(name => /^[xy]axis\d*$/.test(name)))
    Object.assign(change, { [`${axis}.gridcolor`]: colours.line, [`${axis}.linecolor`]: colours.line });
  return change;
};
const put = (target, path, value) => {
  const names = path.split('.'), last = names.pop();
  names.reduce((inner, name) => inner[name] ??= {}, target)[last] = value;
};

function draw(chart) {
  if (chart.dataset.drawn || !window.Plotly) return;
  chart.dataset.drawn = 'begun';
  const figure = json(`${chart.id}-figure`);
  for (const [path, value] of Object.entries(coloured(figure))) put(figure.layout, path, value);
  Plotly.newPlot(chart, figure.data, figure.layout, { displayModeBar: false, responsive: true }).then(() => {
    chart.dataset.drawn = 'yes';
    chart.on('plotly_hover', event => show(event.points[0].text));
    chart.on('plotly_click', event => show(event.points[0].text));
  });
}
const drawAll = () => charts.forEach(draw);
const recolour = () => charts.filter(chart => chart.layout).forEach(chart => Plotly.relayout(chart, coloured(chart)));

// The library is text until the page is painted: reading it takes longer than everything else.
function begin() {
  const source = document.getElementById('plotly');
  if (window.Plotly || !source) return;
  const script = document.createElement('script');
  script.textContent = source.textContent;
  source.remove();
  document.head.append(script);
  const near = new IntersectionObserver(entries =>
    entries.filter(entry => entry.isIntersecting).forEach(entry => draw(entry.target)), { rootMargin: '300px' });
  charts.forEach(chart => near.observe(chart));
}
requestAnimationFrame(() => setTimeout(begin));
setTimeout(begin, 1000);  // a page that nobody looks at gets no frames

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', recolour);
const theme = document.getElementById('theme');
theme?.addEventListener('click', () => {
  const dark = root.style.colorScheme ? root.style.colorScheme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.style.colorScheme = dark ? 'light' : 'dark';
  recolour();
});

let before = '';
addEventListener('beforeprint', () => {
  before = root.style.colorScheme;
  root.style.colorScheme = 'light';
  begin();
  drawAll();
  recolour();
  charts.forEach(chart => Plotly.Plots.resize(chart));
});
addEventListener('afterprint', () => {
  root.style.colorScheme = before;
  recolour();
  charts.forEach(chart => Plotly.Plots.resize(chart));
});

document.querySelectorAll('.views').forEach(group => group.addEventListener('click', event => {
  const chosen = event.target.closest('button'), chart = document.getElementById(group.dataset.plot);
  if (!chosen) return;
  draw(chart);
  Plotly.update(chart, ...chart.layout.meta[chosen.textContent]);
  group.querySelectorAll('button').forEach(button => button.setAttribute('aria-pressed', button === chosen));
}));

document.querySelectorAll('table.sortable').forEach(table => table.querySelectorAll('thead th').forEach((head, column, heads) =>
  head.addEventListener('click', () => {
    const body = table.tBodies[0], rows = [...body.rows];
    const value = row => { const text = row.cells[column].textContent.trim();
      const number = parseFloat(text.replace(/,/g, '')); return text === '–' ? -Infinity : isNaN(number) ? text : number; };
    const down = head.getAttribute('aria-sort') !== 'descending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    rows.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? 1 : x > y ? -1 : 0) * (down ? 1 : -1); });
    body.append(...rows);
  })));

document.querySelectorAll('.copy button').forEach(button => button.addEventListener('click', async () => {
  const text = button.parentElement.querySelector('pre');
  try { await navigator.clipboard.writeText(text.textContent.trim()); button.textContent = 'Copied'; }
  catch { getSelection().selectAllChildren(text); button.textContent = 'Selected'; }
}));

// The section that is read is marked in the list of sections.
const links = new Map([...document.querySelectorAll('nav a')].map(link => [link.hash.slice(1), link]));
const reading = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
  links.forEach(link => link.removeAttribute('aria-current'));
  links.get(entry.target.id)?.setAttribute('aria-current', 'true');
}), { rootMargin: '-15% 0px -75% 0px' });
document.querySelectorAll('main > section').forEach(section => reading.observe(section));

// One candidate in words, whichever is pointed at, typed, or named by a link.
const card = document.getElementById('candidate');
let table, places;
const plain = text => new DOMParser().parseFromString(text, 'text/html').body.textContent;
const make = (tag, text, className) => Object.assign(document.createElement(tag), { textContent: text ?? '', className: className ?? '' });
const shown = value => typeof value === 'number' && !Number.isInteger(value) ? String(+value.toPrecision(4))
  : typeof value === 'number' ? value.toLocaleString('en') : String(value);
function show(text) {
  if (!card || !text) return;
  table ??= json('candidates');
  places ??= new Map(table.id.map((id, place) => [id, place]));
  const id = places.has(text) ? text : plain(text), place = places.get(id);
  if (place === undefined || card.dataset.shown === id) return;
  card.dataset.shown = id;
  const facts = group => table.columns.filter(column => column.group === group).map(column => [column.name,
    column.numbers ? column.numbers[place] : column.codes.length ? column.values[column.codes[place]] : column.values[0]])
    .filter(([, value]) => value !== undefined && value !== null);
  card.querySelector('h3').textContent = id;
  const accuracy = facts('result').find(([name]) => name === 'val_accuracy')[1];
  const score = card.dataset.plain ? accuracy.toFixed(3) : `${(100 * accuracy).toFixed(2)}%`;
  card.querySelector('.note').textContent = `${table.state[place]}, ${score} on validation after ${table.epochs[place]} epochs; `
    + facts('cost').map(([name, value]) => `${shown(value)} ${name === 'params' ? 'parameters' : name === 'flops' ? 'FLOPs' : name}`).join(', ');
  const body = card.querySelector('.body');
  body.replaceChildren(card.dataset.recipe ? pairs('Recipe', facts('recipe')) : '', grid(facts('architecture')));
  const drawing = [...document.querySelectorAll('[data-drawing]')].find(other => other.dataset.drawing === id);
  const place_ = card.querySelector('.drawing');
  place_.replaceChildren(...(drawing ? [(drawing.content ?? drawing).querySelector('svg').cloneNode(true)] : []));
  place_.hidden = !drawing;
}
function pairs(title, facts) {
  const part = make('div', '', 'card'), rows = make('tbody');
  for (const [name, value] of facts) {
    const row = rows.insertRow();
    row.append(Object.assign(make('th', name.replaceAll('_', ' ')), { scope: 'row' }));
    row.insertCell().textContent = shown(value);
  }
  const facts_ = make('table', '', 'facts');
  facts_.append(rows);
  part.append(make('h4', title), facts_);
  return part;
}
function grid(facts) {  // stage1.width goes to row stage1, column width
  const parts = new Map(), titles = [];
  for (const [name, value] of facts) {
    const dot = name.lastIndexOf('.'), part = dot < 0 ? name : name.slice(0, dot), title = dot < 0 ? 'choice' : name.slice(dot + 1);
    if (!titles.includes(title)) titles.push(title);
    if (!parts.has(part)) parts.set(part, new Map());
    parts.get(part).set(title, value);
  }
  const count = title => [...parts.values()].filter(found => found.has(title)).length;
  titles.sort((a, b) => count(b) - count(a));
  const box = make('div', '', 'card scroll'), whole = make('table'), head = whole.createTHead().insertRow(), body = whole.createTBody();
  for (const title of ['part', ...titles]) head.append(Object.assign(make('th', title, title === 'part' ? 'left' : ''), { scope: 'col' }));
  for (const [part, found] of parts) {
    const row = body.insertRow();
    for (const cell of [part, ...titles.map(title => found.has(title) ? shown(found.get(title)) : '')])
      row.append(make('td', cell, row.cells.length ? '' : 'left'));
  }
  box.append(make('h4', 'Architecture'), whole);
  return box;
}
document.querySelectorAll('[data-candidate]').forEach(link => link.addEventListener('click', () => show(link.dataset.candidate)));
const typed = card?.querySelector('input');
typed?.addEventListener('input', () => show(typed.value.trim()));
if (card) requestIdleCallback?.(() => show(card.dataset.first)) ?? setTimeout(() => show(card.dataset.first), 200);
