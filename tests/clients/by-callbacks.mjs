// What stompjs 2.3.3 and webstomp-client have in common: they call back for what happens, and do not connect again by
// themselves. Their users do so in the error callback, which also tells that the connection is lost.

const DELAY = 200;

/**
 * `open` makes a client of a URL and the period of heart-beats, `lost` says what is told of a lost connection, and
 * `send` asks for a receipt in the client's own order of arguments.
 */
export const connectBy = ({ open, lost = () => ({}), send }) => ({ url, headers, subscriptions, beat }, tell) => {
  const messages = new Map();
  let client;
  const connect = () => {
    client = open(url, { outgoing: beat, incoming: beat });
    client.onreceipt = (frame) => tell('receipt', { id: frame.headers['receipt-id'] });
    client.connect({ ...headers }, connected, (problem) => {
      if (problem.command === 'ERROR') {
        tell('error', { headers: problem.headers, body: problem.body });
      } else {
        tell('closed', lost(problem));
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
    send: ({ destination, body, id }) => send(client, destination, body, { receipt: id }),
    disconnect: () => client.disconnect(() => {}, { receipt: 'bye' }),
  };
};
