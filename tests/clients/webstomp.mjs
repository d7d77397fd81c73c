// webstomp-client. It does not connect again by itself: its users do so in the error callback, which also tells that
// the connection is lost.

import WebSocket from 'ws';
import webstomp from 'webstomp-client';

const DELAY = 200;

/** Milliseconds that the WebSocket waits for the answer to its close: a network that is frozen gives none. */
const CLOSE_TIMEOUT = 2000;

export function connect({ url, headers, subscriptions, beat }, tell) {
  const messages = new Map();
  let client;
  const connect = () => {
    const socket = new WebSocket(url, webstomp.VERSIONS.supportedProtocols(), { closeTimeout: CLOSE_TIMEOUT });
    socket.onerror = () => {}; // what `ws` throws otherwise; the close comes as well
    client = webstomp.over(socket, { heartbeat: { outgoing: beat, incoming: beat }, debug: false });
    client.onreceipt = (frame) => tell('receipt', { id: frame.headers['receipt-id'] });
    client.connect({ ...headers }, connected, (problem) => {
      if (problem.command === 'ERROR') {
        tell('error', { headers: problem.headers, body: problem.body });
      } else {
        tell('closed', { code: problem.code });
        setTimeout(connect, DELAY);
      }
    });
  };
  const connected = (frame) => {
    tell('connected', { headers: frame.headers });
    for (const { destination, ack } of subscriptions) {
      client.subscribe(
        destination,
        (message) => {
          messages.set(message.headers['message-id'], message);
          tell('message', { headers: message.headers, body: message.body });
        },
        { ack, receipt: destination },
      );
    }
  };
  connect();
  return {
    ack: ({ message }) => messages.get(message).ack(),
    nack: ({ message }) => messages.get(message).nack(),
    send: ({ destination, body, id }) => client.send(destination, body, { receipt: id }),
    disconnect: () => client.disconnect(() => {}, { receipt: 'bye' }),
  };
}
