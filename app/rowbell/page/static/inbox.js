/**
 * What this window knows of a user's rows. Pure: no page, no clock, no network.
 *
 * @typedef {object} Row A message's body; a deletion has only `event`, `id` and `recipientId`.
 * @property {'created' | 'updated' | 'deleted'} event
 * @property {number} id
 * @property {number} version
 * @property {string} recipientId
 * @property {string} type
 * @property {string} title
 * @property {string | null} body
 * @property {Record<string, unknown>} data
 * @property {string | null} actorId
 * @property {number} createdAt Milliseconds since 1970, as the next two.
 * @property {number | null} expiresAt
 * @property {number | null} readAt
 */

/**
 * @param {Row} row
 * @param {number} now
 */
const isExpired = (row, now) => row.expiresAt !== null && row.expiresAt <= now;

export class Inbox {
  /** @type {Map<number, Row>} The newest state of each row that this subscription was sent. */
  #rows = new Map();

  /** @type {Map<number, Row>} What the subscription before had: shown until this one's replay is complete. */
  #before = new Map();

  /** Is everything here that was unread when the subscription began? */
  complete = false;

  /** A new subscription: what was read or deleted in between is not told, so only what it sends will count. */
  restart() {
    this.#before = this.#all();
    this.#rows = new Map();
    this.complete = false;
  }

  /** The replay is complete. */
  finish() {
    this.#before.clear();
    this.complete = true;
  }

  /**
   * @param {Row} row
   * @param {boolean} replayed Was it read from the table, and not sent because it is new?
   * @param {number} now
   * @returns {boolean} Is it news, worth ringing for?
   */
  take(row, replayed, now) {
    if (row.event === 'deleted') {
      this.#rows.delete(row.id);
      this.#before.delete(row.id);
      return false;
    }
    const known = this.#rows.get(row.id);
    if (known && known.version >= row.version) return false;
    this.#rows.set(row.id, row);
    const isNew = row.event === 'created' && !replayed && !this.#before.has(row.id);
    return isNew && row.readAt === null && !isExpired(row, now);
  }

  /**
   * @param {number} now
   * @returns {{unread: Row[], read: Row[], nextExpiry: number}} Newest first; expired rows are left out, and the next
   *   one expires at `nextExpiry`.
   */
  at(now) {
    const shown = [...this.#all().values()].filter((row) => !isExpired(row, now)).sort((a, b) => b.id - a.id);
    return {
      unread: shown.filter((row) => row.readAt === null),
      read: shown.filter((row) => row.readAt !== null),
      nextExpiry: shown.reduce((soonest, row) => Math.min(soonest, row.expiresAt ?? Infinity), Infinity),
    };
  }

  #all() {
    return this.#before.size ? new Map([...this.#before, ...this.#rows]) : this.#rows;
  }
}
