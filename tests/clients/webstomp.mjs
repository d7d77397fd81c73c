// webstomp-client, over the WebSocket of `ws`.

import WebSocket from 'ws';
import webstomp from 'webstomp-client';

import { connectBy } from './by-callbacks.mjs';

/** Milliseconds that the WebSocket waits for the answer to its close: a network that is frozen gives none. */
const CLOSE_TIMEOUT = 2000;

export const connect = connectBy({
  open: (url, heartbeat) => {
    const socket = new WebSocket(url, webstomp.VERSIONS.supportedProtocols(), { closeTimeout: CLOSE_TIMEOUT });
    socket.onerror = () => {}; // what `ws` throws otherwise; the close comes as well
    return webstomp.over(socket, { heartbeat, debug: false });
  },
  lost: ({ code }) => ({ code }),
  send: (client, destination, body, headers) => client.send(destination, body, headers),
});
