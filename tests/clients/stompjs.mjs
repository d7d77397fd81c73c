// @stomp/stompjs 5, 6 and 7, under Node and in a browser. It connects again by itself.

export const stompjs = (Client, options = {}) => ({ url, headers, subscriptions, beat }, tell) => {
  const messages = new Map();
  const receipt = (id) => {
    client.watchForReceipt(id, () => tell('receipt', { id }));
    return id;
  };
  const client = new Client({
    ...options,
    brokerURL: url,
    connectHeaders: headers,
    disconnectHeaders: { receipt: 'bye' },
    reconnectDelay: 200,
    heartbeatIncoming: beat,
    heartbeatOutgoing: beat,
    onConnect: (frame) => {
      tell('connected', { headers: frame.headers });
      for (const { destination, ack } of subscriptions) {
        client.subscribe(
          destination,
          (message) => {
            messages.set(message.headers['message-id'], message);
            tell('message', { headers: message.headers, body: message.body });
          },
          { ack, receipt: receipt(destination) },
        );
      }
    },
    onDisconnect: (frame) => tell('receipt', { id: frame.headers['receipt-id'] }),
    onStompError: (frame) => tell('error', { headers: frame.headers, body: frame.body }),
    onWebSocketClose: (event) => tell('closed', { code: event.code }),
  });
  client.activate();
  return {
    ack: ({ message }) => messages.get(message).ack(),
    nack: ({ message }) => messages.get(message).nack(),
    send: ({ destination, body, id }) => client.publish({ destination, body, headers: { receipt: receipt(id) } }),
    disconnect: () => client.deactivate(),
  };
};
