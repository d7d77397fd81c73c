/** From what is known to what is seen. */

/**
 * @typedef {import('./inbox.js').Row} Row
 * @typedef {{ids: number[]} | {all: true}} Which
 */

/** Rows of a list that are drawn, and how many more at a time: a page with ten thousand is of no use to anybody. */
const PORTION = 200;

/** Milliseconds that a toast stays, that a row stays highlighted, and until a lost connection is worth a sentence. */
const TOAST = 6000;
const HIGHLIGHT = 4000;
const PATIENCE = 1500;

/** Milliseconds between corrections of "2 minutes ago". */
const TICK = 20_000;

/** Characters and lines of a body that are shown before somebody asks for the rest. */
const LONG = 400;
const MANY_LINES = 6;

const STATES = { connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', refused: 'Refused' };

const LOST =
  'The server cannot be reached. This inbox may be out of date; it catches up when the connection is back.';

/** @param {string} selector */
const one = (selector) => /** @type {HTMLElement} */ (document.querySelector(selector));

/**
 * @param {string} tag
 * @param {Record<string, unknown>} properties
 * @param {...(Node | string | null)} children
 */
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Read aloud, not seen. @param {string} text */
const hidden = (text) => element('span', { className: 'visually-hidden', textContent: text });

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const absolute = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'medium' });

/** @type {[Intl.RelativeTimeFormatUnit, number][]} */
const UNITS = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
];

/**
 * @param {number} time
 * @param {number} now
 */
function fromNow(time, now) {
  const distance = time - now;
  const [unit, length] = UNITS.find(([, each]) => Math.abs(distance) >= each) ?? ['second', 1000];
  if (unit === 'second') return distance > 0 ? 'in less than a minute' : 'just now';
  return relative.format(Math.trunc(distance / length), unit);
}

/** @param {number} time */
function timeElement(time) {
  const iso = new Date(time).toISOString();
  return element('time', { dateTime: iso, title: absolute.format(time), textContent: fromNow(time, Date.now()) });
}

/** Bodies may have 16 KiB: the beginning, and a button for the rest. @param {string} text */
function bodyElements(text) {
  const body = element('p', { className: 'body', dir: 'auto', textContent: text });
  if (text.length <= LONG && text.split('\n').length <= MANY_LINES) return [body];
  body.classList.add('clamped');
  const more = element('button', { type: 'button', className: 'quiet', textContent: 'Show all' });
  more.setAttribute('aria-expanded', 'false');
  more.addEventListener('click', () => {
    const isClamped = body.classList.toggle('clamped');
    more.setAttribute('aria-expanded', String(!isClamped));
    more.textContent = isClamped ? 'Show all' : 'Show less';
  });
  return [body, more];
}

/**
 * @param {Row} row
 * @param {(id: number) => void} onRead
 */
function rowElement(row, onRead) {
  const data = JSON.stringify(row.data);
  const made = element(
    'li',
    { className: 'row' },
    element(
      'div',
      { className: 'row-head' },
      element('h3', { dir: 'auto', textContent: row.title }),
      timeElement(row.createdAt),
    ),
    ...(row.body ? bodyElements(row.body) : []),
    data === '{}' ? null : element('code', { className: 'data', textContent: data }),
    element(
      'div',
      { className: 'row-foot' },
      element(
        'p',
        { className: 'meta' },
        row.type === 'GENERIC' ? null : element('span', { className: 'type' }, hidden('Type: '), row.type),
        element('span', {}, hidden('Row '), `#${row.id}`),
        row.actorId === null ? null : element('span', { dir: 'auto' }, `from ${row.actorId}`),
        row.expiresAt === null ? null : element('span', {}, 'expires ', timeElement(row.expiresAt)),
        row.readAt === null ? null : element('span', {}, 'read ', timeElement(row.readAt)),
      ),
      row.readAt === null ? readButton(row, onRead) : null,
    ),
  );
  made.dataset.id = String(row.id);
  made.dataset.version = String(row.version);
  return made;
}

/**
 * @param {Row} row
 * @param {(id: number) => void} onRead
 */
function readButton(row, onRead) {
  const label = element('span', { className: 'read-label', textContent: 'Mark as read' });
  const button = element('button', { type: 'button', className: 'read', title: 'Mark as read' }, tick(), label);
  button.setAttribute('aria-label', `Mark as read: ${row.title}`);
  button.addEventListener('click', () => {
    if (button.getAttribute('aria-disabled') !== 'true') onRead(row.id);
  });
  return button;
}

function tick() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', 'M3 8.5l3.5 3.5L13 4.5');
  svg.append(path);
  return svg;
}

/** A list of rows that changes only where they do, so that focus, selection and animations stay. */
class List {
  #list;
  #more;
  #limit = PORTION;
  /** @type {Row[]} */
  #rows = [];
  /** @type {Map<number, HTMLElement>} */
  #elements = new Map();
  #onRead;

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} more The button that draws another portion.
   * @param {(id: number) => void} onRead
   */
  constructor(list, more, onRead) {
    this.#list = list;
    this.#more = more;
    this.#onRead = onRead;
    more.addEventListener('click', () => {
      const next = this.#limit;
      this.#limit += PORTION;
      this.show(this.#rows);
      // The button may be gone, and what it brought is what one wants to read.
      this.focus(next);
    });
  }

  /** @param {Row[]} rows */
  show(rows) {
    this.#rows = rows;
    const drawn = rows.slice(0, this.#limit);
    this.#forgetAllBut(new Map(drawn.map((row) => [row.id, row.version])));
    let place = this.#list.firstElementChild;
    for (const row of drawn) {
      const present = this.#elements.get(row.id);
      if (present && present === place) {
        place = place.nextElementSibling;
        continue;
      }
      const element = present ?? rowElement(row, this.#onRead);
      this.#elements.set(row.id, element);
      this.#list.insertBefore(element, place);
    }
    const rest = rows.length - drawn.length;
    this.#more.hidden = rest === 0;
    this.#more.textContent = `Show ${Math.min(rest, PORTION)} more of ${rest.toLocaleString('en')}`;
  }

  /** @param {number} id */
  element(id) {
    return this.#elements.get(id);
  }

  /** Focus the row at this place, or the last one. @param {number} index @returns {boolean} Is there one? */
  focus(index) {
    const row = this.#list.children[Math.min(index, this.#list.children.length - 1)];
    const button = /** @type {HTMLElement | undefined} */ (row?.querySelector('button'));
    button?.focus();
    return button !== undefined;
  }

  /** @param {Element} row */
  indexOf(row) {
    return [...this.#list.children].indexOf(row);
  }

  /** @param {Map<number, number>} versions */
  #forgetAllBut(versions) {
    for (const [id, element] of this.#elements) {
      if (String(versions.get(id)) === element.dataset.version) continue;
      element.remove();
      this.#elements.delete(id);
    }
  }
}

export class View {
  #unread;
  #read;
  #user = '';
  #count = '';
  /** @type {keyof typeof STATES} */
  #state = 'connecting';
  #isComplete = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #toastTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #noticeTimer;

  /** @param {{read: (id: number) => void, allRead: () => void, retry: () => void}} actions */
  constructor({ read, allRead, retry }) {
    this.#unread = new List(one('#unread'), one('#more-unread'), read);
    this.#read = new List(one('#read'), one('#more-read'), read);
    const all = one('#all-read');
    all.addEventListener('click', () => {
      if (all.getAttribute('aria-disabled') !== 'true') allRead();
    });
    one('#retry').addEventListener('click', retry);
    one('#skip').addEventListener('click', () => one('#unread-heading').focus());
    one('#bell').addEventListener('animationend', () => one('#bell').classList.remove('ringing'));
    one('#choose').addEventListener('submit', (event) => {
      event.preventDefault();
      const name = /** @type {HTMLInputElement} */ (one('#user')).value;
      if (name !== '') location.hash = encodeURIComponent(name);
    });
    const insert = /** @type {HTMLDetailsElement} */ (one('#composer'));
    insert.open = matchMedia('(min-width: 56rem)').matches;
    setInterval(correctTimes, TICK);
  }

  /** @param {string} user */
  showUser(user) {
    if (user !== this.#user) this.#count = '';
    this.#user = user;
    /** @type {HTMLInputElement} */ (one('#user')).value = user;
    /** @type {HTMLAnchorElement} */ (one('#second')).href = `#${encodeURIComponent(user)}`;
    one('#whose').textContent = user;
    this.#showCount();
  }

  /** @param {{unread: number, more?: boolean}} count */
  showCount({ unread, more = false }) {
    this.#count = unread === 0 ? '' : `${unread}${more ? '+' : ''}`;
    this.#showCount();
  }

  /**
   * @param {keyof typeof STATES} state
   * @param {string} [reason]
   */
  showState(state, reason) {
    const isNew = state !== this.#state;
    this.#state = state;
    const shown = one('#state');
    if (shown.dataset.state !== state) {
      shown.dataset.state = state;
      one('#state-text').textContent = STATES[state];
    }
    // If something was being marked, the connection that was to say so is gone.
    this.#allowMarking();
    if (isNew || reason) {
      clearTimeout(this.#noticeTimer);
      // A gateway that is replaced is away for a moment: not worth a sentence that moves everything down.
      if (state === 'reconnecting') this.#noticeTimer = setTimeout(() => this.#notice(LOST, false), PATIENCE);
      else if (state === 'refused') this.#notice(`The server refused the connection: ${reason}`, true);
      else this.#notice('', false);
    }
    this.#showWhatIsMissing();
  }

  /**
   * @param {{unread: Row[], read: Row[], complete: boolean}} inbox
   * @param {Row[]} news Those of them that arrived just now.
   */
  show({ unread, read, complete }, news) {
    const focused = document.activeElement?.closest('.row');
    const place = focused ? this.#unread.indexOf(focused) : -1;
    this.#isComplete = complete;
    this.#unread.show(unread);
    this.#read.show(read);
    one('#read-section').hidden = read.length === 0;
    if (focused && !focused.isConnected && !this.#unread.focus(Math.max(place, 0))) one('#unread-heading').focus();
    if (this.#state !== 'live') this.#allowMarking();
    this.#showWhatIsMissing();
    const isUnread = new Set(unread.map((row) => row.id));
    this.#ring(news.filter((row) => isUnread.has(row.id)));
  }

  /**
   * @param {Which} which
   * @param {boolean} is Is the server being asked to mark these as read?
   */
  isMarking(which, is) {
    const buttons =
      'all' in which ? [one('#all-read')] : which.ids.map((id) => this.#unread.element(id)?.querySelector('.read'));
    for (const button of buttons) button?.setAttribute('aria-disabled', String(is));
    if ('all' in which && !is) this.#showWhatIsMissing();
  }

  /** Rows can be marked as read while the connection is there. */
  #allowMarking() {
    const isDisabled = String(this.#state !== 'live');
    for (const button of document.querySelectorAll('#unread .read')) button.setAttribute('aria-disabled', isDisabled);
  }

  #showCount() {
    const badge = one('#badge');
    badge.hidden = this.#count === '';
    badge.textContent = this.#count;
    badge.classList.toggle('wide', this.#count.length > 2);
    one('#count-text').textContent = `${this.#count || 'No'} unread`;
    document.title = `${this.#count && `(${this.#count}) `}${this.#user} · Rowbell`;
    const icon = this.#count ? '/page/bell-unread.svg' : '/page/bell.svg';
    if (one('#icon').getAttribute('href') !== icon) one('#icon').setAttribute('href', icon);
  }

  #showWhatIsMissing() {
    const hasUnread = one('#unread').childElementCount > 0;
    one('#empty').hidden = hasUnread || !this.#isComplete;
    one('#loading').hidden = hasUnread || this.#isComplete || this.#state === 'refused';
    one('#none').hidden = hasUnread || this.#isComplete || this.#state !== 'refused';
    one('#all-read').setAttribute('aria-disabled', String(!hasUnread || this.#state !== 'live'));
  }

  /**
   * @param {string} text
   * @param {boolean} canRetry
   */
  #notice(text, canRetry) {
    one('#notice-text').textContent = text;
    one('#notice').hidden = text === '';
    one('#retry').hidden = !canRetry;
  }

  /** @param {Row[]} news */
  #ring(news) {
    if (news.length === 0) return;
    const bell = one('#bell');
    bell.classList.remove('ringing');
    bell.getBoundingClientRect(); // or the class would not have been away, and the animation would not begin again
    bell.classList.add('ringing');
    for (const { id } of news) {
      const element = this.#unread.element(id);
      element?.classList.add('fresh');
      setTimeout(() => element?.classList.remove('fresh'), HIGHLIGHT);
    }
    const latest = news[news.length - 1];
    const toast = element(
      'p',
      { className: 'toast' },
      element('strong', { textContent: news.length === 1 ? 'New: ' : `${news.length} new, the latest: ` }),
      element('span', { dir: 'auto', textContent: latest.title }),
    );
    one('#toasts').replaceChildren(toast);
    clearTimeout(this.#toastTimer);
    this.#toastTimer = setTimeout(() => toast.remove(), TOAST);
  }
}

function correctTimes() {
  const now = Date.now();
  for (const time of document.querySelectorAll('time')) {
    const text = fromNow(Date.parse(time.dateTime), now);
    if (time.textContent !== text) time.textContent = text;
  }
}
