// What Node.js programs do: fetch(), and the http and https modules. Prints one JSON object.
// Arguments: base of an HTTP URL, of an HTTPS URL, a name that is refused. NODE_EXTRA_CA_CERTS names the authority.
import http from 'node:http';
import https from 'node:https';
import { text } from 'node:stream/consumers';

const [plain, secure, refused] = process.argv.slice(2);
const told = {};

const request = (url, options = {}, body = undefined) =>
  new Promise((resolve, reject) => {
    const module = url.startsWith('https:') ? https : http;
    const asked = module.request(url, { timeout: 10_000, ...options }, async (answer) =>
      resolve({ status: answer.statusCode, json: JSON.parse(await text(answer)) }));
    asked.on('error', reject).on('timeout', () => asked.destroy(new Error('timeout')));
    if (options.headers?.expect) asked.on('continue', () => asked.end(body)).flushHeaders();
    else asked.end(body);
  });
const pieces = async function* () {
  yield new TextEncoder().encode('in ');
  yield new TextEncoder().encode('pieces');
};

for (const [name, base] of [['http', plain], ['https', secure]]) {
  const got = await fetch(`${base}/echo?fetch=${name}`, { headers: { 'x-sent': 'by fetch' } });
  told[`fetch ${name}`] = (await got.json()).query;
  const posted = await fetch(`${base}/echo?fetch=${name}-post`, { method: 'POST', body: ReadableStream.from?.(pieces()) ?? pieces(), duplex: 'half' });
  told[`fetch ${name} post`] = (await posted.json()).body_bytes;
  told[`request ${name}`] = (await request(`${base}/echo?request=${name}`)).json.query;
  const listed = await request(`${base}/echo?request=${name}-listed`, { headers: ['host', new URL(base).host, 'x-sent', 'as a list'] });
  told[`request ${name} listed`] = listed.json.query;
}
const expecting = { method: 'POST', headers: { expect: '100-continue', 'content-length': 5 } };
told['request expecting'] = (await request(`${plain}/echo?request=expecting`, expecting, 'hello')).json.body_bytes;
const followed = await fetch(`${plain}/redirect?to=${secure}/echo?fetch=redirected`);
told['fetch redirected'] = (await followed.json()).query;

const denied = await fetch(`http://${refused}/echo?fetch=refused`);
told['fetch refused http'] = `${denied.status} ${(await denied.json()).error.code}`;
const cause = (error) => `${error.cause?.message ?? ''} ${error.message}`;
told['fetch refused https'] = await fetch(`https://${refused}/echo?fetch=refused`).then(() => 'let through', cause);
told['request refused http'] = (await request(`http://${refused}/echo?request=refused`)).status;
told['request refused https'] = await request(`https://${refused}/echo?request=refused`).then(() => 'let through', cause);

// The room's own loopback interface is no business of the proxy's.
const server = http.createServer((asked, answer) => answer.end(JSON.stringify({ here: asked.url })));
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
const here = `http://127.0.0.1:${server.address().port}`;
told['fetch here'] = (await (await fetch(`${here}/fetched`)).json()).here;
told['request here'] = (await request(`${here}/requested`)).json.here;
server.close();
server.closeAllConnections?.();
console.log(JSON.stringify(told));
