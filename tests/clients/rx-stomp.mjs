// @stomp/rx-stomp. It connects and subscribes again by itself.

import { RxStomp, RxStompState } from '@stomp/rx-stomp';
import { skip } from 'rxjs';
import WebSocket from 'ws';

Object.assign(globalThis, { WebSocket });

export function connect({ url, headers, subscriptions, beat }, tell) {
  const messages = new Map();
  const client = new RxStomp();
  client.configure({
    brokerURL: url,
    connectHeaders: headers,
    disconnectHeaders: { receipt: 'bye' },
    reconnectDelay: 200,
    heartbeatIncoming: beat,
    heartbeatOutgoing: beat,
    discardWebsocketOnCommFailure: true,
  });
  client.serverHeaders$.subscribe((given) => tell('connected', { headers: given }));
  client.stompErrors$.subscribe((frame) => tell('error', { headers: frame.headers, body: frame.body }));
  client.unhandledReceipts$.subscribe((frame) => tell('receipt', { id: frame.headers['receipt-id'] }));
  client.connectionState$.pipe(skip(1)).subscribe((state) => { // the first says that nothing has begun
    if (state === RxStompState.CLOSED) tell('closed');
  });
  for (const { destination, ack } of subscriptions) {
    client.watch({ destination, subHeaders: { ack, receipt: destination } }).subscribe((message) => {
      messages.set(message.headers['message-id'], message);
      tell('message', { headers: message.headers, body: message.body });
    });
  }
  client.activate();
  return {
    ack: ({ message }) => messages.get(message).ack(),
    nack: ({ message }) => messages.get(message).nack(),
    send: ({ destination, body, id }) => client.publish({ destination, body, headers: { receipt: id } }),
    disconnect: () => client.deactivate(),
  };
}
