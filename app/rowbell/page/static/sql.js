/**
 * The INSERT that does what the form does. Pure.
 *
 * @typedef {object} Fields
 * @property {string} recipientId
 * @property {string} title
 * @property {string} [type] This and the next two: absent means the table's default.
 * @property {string} [body]
 * @property {string} [data] JSON as text.
 *
 * @typedef {{kind: 'keyword' | 'string' | 'plain', text: string}} Token
 */

/** @type {[keyof Fields, string][]} */
const COLUMNS = [
  ['recipientId', 'recipient_id'],
  ['title', 'title'],
  ['type', 'type'],
  ['body', 'body'],
  ['data', 'data'],
];

/** @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

/**
 * @param {Fields} fields
 * @returns {Token[]}
 */
export function insertTokens(fields) {
  const given = COLUMNS.filter(([member]) => fields[member] !== undefined);
  /** @type {Token[]} */
  const values = given.flatMap(([member], index) => [
    { kind: 'plain', text: index ? ', ' : '' },
    { kind: 'string', text: quoted(fields[member] ?? '') },
  ]);
  return [
    { kind: 'keyword', text: 'INSERT INTO' },
    { kind: 'plain', text: ` notification\n  (${given.map(([, column]) => column).join(', ')})\n` },
    { kind: 'keyword', text: 'VALUES' },
    { kind: 'plain', text: '\n  (' },
    ...values,
    { kind: 'plain', text: ');' },
  ];
}

/** @param {Fields} fields */
export const insertStatement = (fields) => insertTokens(fields).map((token) => token.text).join('');
