/** The inbox of one user, whom the address names: `/#alice`. Two windows with the same user are two devices. */

import { Connection } from './connection.js';
import { suggestRecipient } from './form.js';
import { Inbox } from './inbox.js';
import { View } from './view.js';

/** @typedef {import('./inbox.js').Row} Row */

const DEFAULT_USER = 'alice';

/** The longest that setTimeout can wait. */
const LONGEST_TIMER = 2 ** 31 - 1;

const view = new View({ read: (id) => markRead({ ids: [id] }), allRead: () => markRead({ all: true }), retry: start });

let user = '';
let inbox = new Inbox();
/** @type {Connection | undefined} */
let connection;

/** @type {Row[]} News since the page was drawn last. */
let news = [];
/** @type {(() => void)[]} What was taken since the page was drawn last: acknowledged once it has been drawn. */
let acknowledgements = [];

let isDrawingPlanned = false;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let expiry;

const soon = new MessageChannel();
soon.port1.onmessage = draw;

/** Draw once for all that arrives before the next frame. There are no frames while the page is not shown. */
function planDrawing() {
  if (isDrawingPlanned) return;
  isDrawingPlanned = true;
  if (document.hidden) soon.port2.postMessage(null);
  else requestAnimationFrame(draw);
}

function draw() {
  if (!isDrawingPlanned) return;
  isDrawingPlanned = false;
  const now = Date.now();
  const { unread, read, nextExpiry } = inbox.at(now);
  view.show({ unread, read, complete: inbox.complete }, news);
  news = [];
  for (const acknowledge of acknowledgements) acknowledge();
  acknowledgements = [];
  clearTimeout(expiry);
  if (nextExpiry < Infinity) expiry = setTimeout(planDrawing, Math.min(nextExpiry - now, LONGEST_TIMER));
}

/** @param {{ids: number[]} | {all: true}} which */
function markRead(which) {
  if (!connection?.live) return;
  view.isMarking(which, true);
  connection.markRead(which, () => view.isMarking(which, false));
}

function start() {
  connection?.close();
  const before = user;
  user = userOfAddress();
  if (user !== before) inbox = new Inbox();
  forgetPending();
  view.showUser(user);
  suggestRecipient(user, before);
  const listened = inbox;
  connection = new Connection(user, {
    state: (state, reason) => view.showState(state, reason),
    restarted: () => {
      forgetPending();
      listened.restart();
      planDrawing();
    },
    row: (row, replayed, acknowledge) => {
      if (listened.take(row, replayed, Date.now())) news.push(row);
      acknowledgements.push(acknowledge);
      planDrawing();
    },
    complete: () => {
      listened.finish();
      planDrawing();
    },
    count: (count) => view.showCount(count),
  });
  planDrawing();
}

/** What belongs to a connection that is gone. */
function forgetPending() {
  news = [];
  acknowledgements = [];
}

function userOfAddress() {
  const name = location.hash.slice(1);
  try {
    return decodeURIComponent(name) || DEFAULT_USER;
  } catch {
    return name;
  }
}

addEventListener('hashchange', start);
// A frame that was asked for before the page was hidden does not come until it is shown again.
document.addEventListener('visibilitychange', draw);
start();
