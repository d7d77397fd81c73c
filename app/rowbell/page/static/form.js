/** The form that inserts a row, and the SQL that does the same. */

import { insertStatement, insertTokens } from './sql.js';

/** @typedef {import('./sql.js').Fields} Fields */

const form = /** @type {HTMLFormElement} */ (document.querySelector('#insert'));
const statement = /** @type {HTMLElement} */ (document.querySelector('#statement'));
const copy = /** @type {HTMLButtonElement} */ (document.querySelector('#copy'));
const outcome = /** @type {HTMLElement} */ (document.querySelector('#outcome'));
const failure = /** @type {HTMLElement} */ (document.querySelector('#failure'));

/** @type {(keyof Fields)[]} */
const MEMBERS = ['recipientId', 'title', 'type', 'body', 'data'];
const REQUIRED = ['recipientId', 'title'];

let busy = false;

/** @param {string} member */
const input = (member) => /** @type {HTMLInputElement} */ (form.elements.namedItem(member));

/** What the form says; an empty field that is not required is left to the table's default. */
function fields() {
  const filled = MEMBERS.filter((member) => REQUIRED.includes(member) || input(member).value !== '');
  return /** @type {Fields} */ (Object.fromEntries(filled.map((member) => [member, input(member).value])));
}

function showStatement() {
  statement.replaceChildren(
    ...insertTokens(fields()).map(({ kind, text }) => {
      if (kind === 'plain') return text;
      return Object.assign(document.createElement('span'), { className: kind, textContent: text });
    }),
  );
}

/**
 * @param {string | null} member
 * @param {string} reason
 */
function showError(member, reason) {
  const message = member && document.querySelector(`#${member}-error`);
  if (!message) {
    failure.textContent = reason;
    return;
  }
  message.textContent = reason;
  input(member).setAttribute('aria-invalid', 'true');
  input(member).focus();
}

function clearErrors() {
  failure.textContent = outcome.textContent = '';
  MEMBERS.forEach(clearError);
}

/** @param {string} member */
function clearError(member) {
  input(member).removeAttribute('aria-invalid');
  /** @type {HTMLElement} */ (document.querySelector(`#${member}-error`)).textContent = '';
}

async function insert() {
  clearErrors();
  let response, answer;
  try {
    response = await fetch('/page/notifications', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(fields()),
    });
    answer = await response.json();
  } catch {
    showError(null, 'The server did not answer. The row may or may not have been committed.');
    return;
  }
  if (!response.ok) {
    showError(answer.field ?? null, answer.error);
    return;
  }
  outcome.textContent = `Row ${answer.id} is committed.`;
  input('title').select();
}

async function copyStatement() {
  const text = insertStatement(fields());
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers give the clipboard to pages of this machine or with TLS only.
    getSelection()?.selectAllChildren(statement);
    document.execCommand('copy');
  }
  showCopied('Copied', 'The SQL is copied.');
  setTimeout(() => showCopied('Copy', ''), 2000);
}

/**
 * @param {string} label
 * @param {string} status For those who do not see the label.
 */
function showCopied(label, status) {
  /** @type {HTMLElement} */ (document.querySelector('#copy-text')).textContent = label;
  /** @type {HTMLElement} */ (document.querySelector('#copied')).textContent = status;
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  await insert();
  busy = false;
});
form.addEventListener('input', (event) => {
  clearError(/** @type {HTMLInputElement} */ (event.target).name);
  showStatement();
});
copy.addEventListener('click', copyStatement);

/**
 * The user changed: rows are for them, unless somebody else was typed.
 *
 * @param {string} user
 * @param {string} before
 */
export function suggestRecipient(user, before) {
  const recipient = input('recipientId');
  if (recipient.value === '' || recipient.value === before) recipient.value = user;
  showStatement();
}
