// stompjs 2.3.3, also known as stomp-websocket, with the WebSocket that it depends on. It does not connect again by
// itself: its users do so in the error callback, which also tells that the connection is lost.

import Stomp from 'stompjs';
import websocket from 'websocket';

Stomp.WebSocketClass = websocket.w3cwebsocket;

const DELAY = 200;

const connectBy = (open) => ({ url, headers, subscriptions, beat }, tell) => {
  const messages = new Map();
  let client;
  const connect = () => {
    client = open(url);
    client.debug = null;
    client.heartbeat = { outgoing: beat, incoming: beat };
    client.onreceipt = (frame) => tell('receipt', { id: frame.headers['receipt-id'] });
    client.connect({ ...headers }, connected, (problem) => {
      if (problem.command === 'ERROR') {
        tell('error', { headers: problem.headers, body: problem.body });
      } else {
        tell('closed');
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
    send: ({ destination, body, id }) => client.send(destination, { receipt: id }, body),
    disconnect: () => client.disconnect(() => {}, { receipt: 'bye' }),
  };
};

export const connect = connectBy((url) => Stomp.client(url));
export const connectOverWS = connectBy((url) => Stomp.overWS(url));
