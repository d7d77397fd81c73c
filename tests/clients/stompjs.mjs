// @stomp/stompjs, unchanged, driven by the tests: one JSON line on stdout for whatever happens to it.
//
//   node stompjs.mjs BROKER_URL TOKEN ACK_MODE
//
// The token goes into CONNECT; the client reconnects by itself, as browsers' do. It ends when stdin does.

import { Client } from '@stomp/stompjs';
import WebSocket from 'ws';

Object.assign(globalThis, { WebSocket });

const [brokerURL, token, ack] = process.argv.slice(2);
const tell = (what, more = {}) => process.stdout.write(JSON.stringify({ what, ...more }) + '\n');

const client = new Client({
  brokerURL,
  connectHeaders: { Authorization: `Bearer ${token}` },
  reconnectDelay: 200,
  heartbeatIncoming: 4000,
  heartbeatOutgoing: 4000,
  onConnect: (frame) => {
    tell('connected', { headers: frame.headers });
    client.watchForReceipt('subscribed', () => tell('receipt'));
    client.subscribe(
      '/user/queue/notifications',
      (message) => {
        tell('message', { headers: message.headers, body: JSON.parse(message.body) });
        if (ack !== 'auto') message.ack();
      },
      { ack, receipt: 'subscribed' },
    );
  },
  onStompError: (frame) => tell('error', { headers: frame.headers, body: frame.body }),
  onWebSocketClose: (event) => tell('closed', { code: event.code }),
});
client.activate();

process.stdin.resume();
process.stdin.on('end', async () => {
  await client.deactivate();
  process.exit(0);
});
