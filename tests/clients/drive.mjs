// A stock client under Node, unchanged, driven by the tests: commands come as lines of JSON on stdin, and whatever
// happens to the client goes as lines of JSON to stdout.
//
//   node drive.mjs CLIENT
//
// The first line is what to connect to; see `Settings` in stock.py. It ends when stdin does.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

import { stompjs } from './stompjs.mjs';

const require = createRequire(import.meta.url);

const clients = {
  'stompjs-7': () => {
    Object.assign(globalThis, { WebSocket: require('ws') });
    return stompjs(require('@stomp/stompjs').Client, { discardWebsocketOnCommFailure: true });
  },
  'stompjs-6': () => {
    Object.assign(globalThis, { WebSocket: require('ws') });
    return stompjs(require('stompjs6').Client, { discardWebsocketOnCommFailure: true });
  },
  'stompjs-5': () => {
    Object.assign(globalThis, { WebSocket: require('websocket').w3cwebsocket });
    return stompjs(require('stompjs5').Client);
  },
  'rx-stomp': async () => (await import('./rx-stomp.mjs')).connect,
  'stomp-websocket': async () => (await import('./stomp-websocket.mjs')).connect,
  'stomp-websocket-overWS': async () => (await import('./stomp-websocket.mjs')).connectOverWS,
  webstomp: async () => (await import('./webstomp.mjs')).connect,
};

const tell = (what, more = {}) => process.stdout.write(`${JSON.stringify({ what, ...more })}\n`);

const connect = await clients[process.argv[2]]();
let client;
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.do === 'connect') client = connect(command, tell);
  else client[command.do](command);
}
process.exit(0);
