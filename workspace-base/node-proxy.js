'use strict';
// What NODE_USE_ENV_PROXY=1 makes Node.js do from 22.21 and 24.5 on, for the older one that Debian has: fetch(), and http and
// https with their global agents, leave by the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name. The image loads this into
// every Node.js process (NODE_OPTIONS); a newer Node.js needs none of it, and gets none.

const { existsSync } = require('fs');
const http = require('http');
const https = require('https');

// The library behind Debian's fetch(): the same version, with more of it to be had.
const UNDICI = '/usr/share/nodejs/undici';
// Where every fetch(), Node's own and that of any undici a program brings along, looks for what sends its requests.
const DISPATCHER = Symbol.for('undici.globalDispatcher.1');

const [major, minor] = process.versions.node.split('.').map(Number);
const native = major > 24 || (major === 24 && minor >= 5) || (major === 22 && minor >= 21);
const variable = (name) => process.env[name.toLowerCase()] || process.env[name];
const bracketed = (host) => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host);

// The proxy a request to this host goes through; none where NO_PROXY says so.
function proxyFor(protocol, host, port) {
  const proxy = variable(protocol === 'https:' ? 'HTTPS_PROXY' : 'HTTP_PROXY');
  const name = host.replace(/^\[|\]$/g, '').toLowerCase();
  const direct = (entry) => {
    const [, pattern, only] = entry.match(/^([^:]+):(\d+)$/) || [null, entry];
    const suffix = pattern.replace(/^\*?\./, '.');
    return (!only || Number(only) === Number(port)) &&
      (pattern === '*' || pattern === name || (suffix.startsWith('.') && name.endsWith(suffix)));
  };
  const list = (variable('NO_PROXY') || '').toLowerCase().split(/[\s,]+/).filter(Boolean);
  return proxy && !list.some(direct) ? new URL(proxy) : undefined;
}

// Opens a tunnel (CONNECT, RFC 9110, 9.3.6) and hands over its socket.
function tunnel(proxy, host, port, done) {
  const authority = `${bracketed(host)}:${port}`;
  const [headers, to] = [{ host: authority }, { host: proxy.hostname, port: proxy.port || 80 }];
  http.request({ ...to, method: 'CONNECT', path: authority, headers, agent: false })
    .once('connect', (answer, socket, head) => {
      if (answer.statusCode !== 200) {
        socket.destroy();
        return done(new Error(`the proxy answered CONNECT ${authority} with ${answer.statusCode}`));
      }
      if (head.length > 0) socket.unshift(head);
      done(null, socket);
    })
    .once('error', done)
    .end();
}

class HttpAgent extends http.Agent {
  addRequest(request, options) {
    const { host, port, socketPath } = options;
    const proxy = socketPath ? undefined : proxyFor('http:', host, port);
    if (!proxy) return super.addRequest(request, options);
    request.path = `http://${bracketed(host)}${port === 80 ? '' : `:${port}`}${request.path}`;
    const written = request._header;
    if (written) {
      // One with its headers as a list has been written by now, and with `Expect` it even waits to be sent.
      request._header = written.replace(/^\S+ \S+/, () => `${request.method} ${request.path}`);
      for (const part of request.outputData) {
        if (String(part.data).startsWith(written)) part.data = request._header + part.data.slice(written.length);
      }
    }
    super.addRequest(request, { ...options, host: proxy.hostname, port: proxy.port || 80 });
  }
}

class HttpsAgent extends https.Agent {
  createConnection(options, done) {
    const { host, port, socketPath } = options;
    const proxy = socketPath ? undefined : proxyFor('https:', host, port);
    if (!proxy) return super.createConnection(options, done);
    tunnel(proxy, host, port, (error, socket) => {
      if (error) done(error);
      else done(null, super.createConnection({ ...options, socket }));
    });
  }
}

// Stands in for undici's global dispatcher, and loads undici with the first request.
class Dispatcher {
  #direct;
  #tunnels;
  #proxies = new Map();

  #load() {
    const { Agent, buildConnector } = require(UNDICI);
    const secure = buildConnector({});
    const connect = (options, done) => {
      const { protocol, hostname } = options;
      const port = options.port || (protocol === 'https:' ? 443 : 80);
      tunnel(proxyFor(protocol, hostname, port), hostname, port, (error, httpSocket) => {
        if (error) done(error);
        else if (protocol === 'https:') secure({ ...options, httpSocket }, done);
        else done(null, httpSocket);
      });
    };
    this.#direct = new Agent();
    this.#tunnels = new Agent({ connect });
  }

  #forwarding(proxy) {
    const { Pool } = require(UNDICI);
    if (!this.#proxies.has(proxy.origin)) this.#proxies.set(proxy.origin, new Pool(proxy.origin));
    return this.#proxies.get(proxy.origin);
  }

  dispatch(options, handler) {
    if (!this.#direct) this.#load();
    const origin = new URL(options.origin);
    const proxy = proxyFor(origin.protocol, origin.hostname, origin.port || (origin.protocol === 'https:' ? 443 : 80));
    if (!proxy) return this.#direct.dispatch(options, handler);
    // What changes protocols is no HTTP any more: a proxy carries that in a tunnel only.
    if (origin.protocol === 'https:' || options.upgrade) return this.#tunnels.dispatch(options, handler);
    const { host } = origin;
    const headers = Array.isArray(options.headers) ? ['host', host, ...options.headers] : { host, ...options.headers };
    const forwarded = { ...options, origin: proxy.origin, path: origin.origin + options.path, headers };
    return this.#forwarding(proxy).dispatch(forwarded, handler);
  }

  async close() {
    await Promise.all([this.#direct, this.#tunnels, ...this.#proxies.values()].map((agent) => agent?.close()));
  }

  async destroy(error) {
    await Promise.all([this.#direct, this.#tunnels, ...this.#proxies.values()].map((agent) => agent?.destroy(error)));
  }
}

if (process.env.NODE_USE_ENV_PROXY === '1' && !native) {
  http.globalAgent = new HttpAgent(http.globalAgent.options);
  https.globalAgent = new HttpsAgent(https.globalAgent.options);
  if (existsSync(UNDICI)) {
    Object.defineProperty(globalThis, DISPATCHER, { value: new Dispatcher(), writable: true, configurable: true });
  }
}
