/**
 * A user's connection to the gateway, which comes back by itself.
 *
 * @typedef {import('./inbox.js').Row} Row
 * @typedef {{unread: number, more?: boolean}} Count
 *
 * @typedef {object} Listener
 * @property {(state: 'connecting' | 'live' | 'reconnecting' | 'refused', reason?: string) => void} state
 * @property {() => void} restarted A new subscription begins: unread rows follow.
 * @property {(row: Row, replayed: boolean, acknowledge: () => void) => void} row
 * @property {() => void} complete All unread rows have been sent.
 * @property {(count: Count) => void} count How many rows are unread, from the server.
 */

const { Client, ReconnectionTimeMode, TickerStrategy } = globalThis.StompJs;

const NOTIFICATIONS = '/user/queue/notifications';
const UNREAD = '/user/queue/unread';
const READ = '/app/notifications/read';

/** Milliseconds between attempts, of the first and at most. */
const FIRST_DELAY = 500;
const LAST_DELAY = 10_000;

/** Milliseconds that an attempt may take: a server that stopped answering is tried again. */
const CONNECT_TIMEOUT = 10_000;

/** What trying again does not fix. */
class Refused extends Error {}

/** @type {Listener} Listens once a connection is closed: frames that were on their way are nobody's. */
const NOBODY = { state() {}, restarted() {}, row() {}, complete() {}, count() {} };

export class Connection {
  #user;
  #listener;
  #client;
  /** Was the replay complete on this connection? An ERROR before that would come again with the next one. */
  #live = false;
  #receipts = 0;

  /**
   * @param {string} user
   * @param {Listener} listener
   */
  constructor(user, listener) {
    this.#user = user;
    this.#listener = listener;
    this.#client = new Client({
      brokerURL: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`,
      reconnectTimeMode: ReconnectionTimeMode.EXPONENTIAL,
      // Not the same for each window: a gateway that starts again should not meet all of them at once.
      reconnectDelay: spread(FIRST_DELAY),
      maxReconnectDelay: LAST_DELAY,
      connectionTimeout: CONNECT_TIMEOUT,
      // In a tab that is not shown, the page's own timers fire once a minute, and heart-beats would be missing.
      heartbeatStrategy: TickerStrategy.Worker,
      beforeConnect: () => this.#takeToken(),
      onConnect: () => this.#subscribe(),
      onStompError: (frame) => this.#failed(frame),
      onWebSocketClose: () => this.#closed(),
    });
    listener.state('connecting');
    this.#client.activate();
  }

  get live() {
    return this.#live;
  }

  /** Not to be used any more. */
  close() {
    this.#live = false;
    this.#listener = NOBODY;
    this.#client.deactivate();
  }

  /**
   * Mark these rows as read, or all that this connection has acknowledged. They come back as `updated`.
   *
   * @param {{ids: number[]} | {all: true}} which
   * @param {() => void} done Called when the server has done it; not if the connection breaks before.
   */
  markRead(which, done) {
    const receipt = `read-${++this.#receipts}`;
    this.#client.watchForReceipt(receipt, done);
    this.#client.publish({
      destination: READ,
      headers: { receipt, 'content-type': 'application/json' },
      body: JSON.stringify(which),
    });
  }

  /** Ask for a token until the server answers: tokens outlive no hour, so each connection has its own. */
  async #takeToken() {
    for (let delay = FIRST_DELAY; this.#client.active; delay = Math.min(2 * delay, LAST_DELAY)) {
      try {
        this.#client.connectHeaders = { Authorization: `Bearer ${await tokenOf(this.#user)}` };
        return;
      } catch (error) {
        if (error instanceof Refused) return this.#refused(error.message);
        this.#listener.state('reconnecting');
      }
      await new Promise((resolve) => setTimeout(resolve, spread(delay)));
    }
  }

  #subscribe() {
    this.#listener.restarted();
    this.#client.watchForReceipt('replayed', () => {
      this.#live = true;
      this.#listener.complete();
      this.#listener.state('live');
    });
    this.#client.subscribe(
      NOTIFICATIONS,
      (message) =>
        this.#listener.row(JSON.parse(message.body), message.headers.replayed === 'true', () => message.ack()),
      { ack: 'client-individual', receipt: 'replayed' },
    );
    this.#client.subscribe(UNREAD, (message) => this.#listener.count(JSON.parse(message.body)));
  }

  /** @param {{headers: Record<string, string>, body: string}} frame */
  #failed(frame) {
    const reason = [frame.headers.message, frame.body].filter(Boolean).join('. ');
    if (this.#live) console.warn('Rowbell:', reason);
    else this.#refused(reason);
  }

  #closed() {
    this.#live = false;
    this.#listener.state('reconnecting');
  }

  /** @param {string} reason */
  #refused(reason) {
    const listener = this.#listener;
    this.close();
    listener.state('refused', reason);
  }
}

/** @param {string} user */
async function tokenOf(user) {
  const response = await fetch('/page/token', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ user }),
    signal: AbortSignal.timeout(CONNECT_TIMEOUT),
  });
  if (response.status >= 500) throw new Error(`HTTP ${response.status}`);
  const answer = await response.json();
  if (!response.ok) throw new Refused(answer.error);
  return answer.token;
}

/** Between half as long and half as long again. @param {number} delay */
function spread(delay) {
  return delay * (0.5 + Math.random());
}
