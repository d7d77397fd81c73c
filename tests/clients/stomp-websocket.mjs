// stompjs 2.3.3, also known as stomp-websocket, with the WebSocket that it depends on.

import Stomp from 'stompjs';
import websocket from 'websocket';

import { connectBy } from './by-callbacks.mjs';

Stomp.WebSocketClass = websocket.w3cwebsocket;

const send = (client, destination, body, headers) => client.send(destination, headers, body);
const quiet = (client, heartbeat) => Object.assign(client, { debug: null, heartbeat });

export const connect = connectBy({ open: (url, beats) => quiet(Stomp.client(url), beats), send });
export const connectOverWS = connectBy({ open: (url, beats) => quiet(Stomp.overWS(url), beats), send });
