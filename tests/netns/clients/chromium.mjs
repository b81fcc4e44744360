// Fetches paths in headless Chromium; prints one line of JSON for each.
//
// Usage: node chromium.mjs PLAYWRIGHT_FOLDER CERTIFICATE HOST PORT ADDRESS PAGE PATH...
// PAGE is opened first. The PATHs are then fetched by the page's own script; a line says which
// protocol the browser used for it (nextHopProtocol), and how many pictures of the page it shows.

import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [folder, certificate, host, port, address, page, ...paths] = process.argv.slice(2);
const publicKey = new X509Certificate(readFileSync(certificate)).publicKey;
const pin = createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('base64');
const { chromium } = createRequire(`${folder}/`)('playwright-core');

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-dev-shm-usage',
    `--host-resolver-rules=MAP ${host} ${address}`,
    `--origin-to-force-quic-on=${host}:${port}`,
    `--ignore-certificate-errors-spki-list=${pin}`,
  ],
});

const fetchInPage = async (path) => {
  const response = await fetch(path);
  const body = await response.arrayBuffer();
  const digest = await crypto.subtle.digest('SHA-256', body);
  const hex = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  const [entry] = performance.getEntriesByName(response.url);
  return {
    url: response.url,
    status: response.status,
    http_version: entry ? entry.nextHopProtocol : 'unknown',
    headers: [...response.headers],
    length: body.byteLength,
    sha256: hex,
  };
};

try {
  const tab = await browser.newPage();
  await tab.goto(`https://${host}:${port}${page}`);
  const pictures = await tab.evaluate(() =>
    [...document.images].filter((image) => image.complete && image.naturalWidth > 0).length,
  );
  for (const path of paths) {
    const fetched = await tab.evaluate(fetchInPage, path);
    console.log(JSON.stringify({ ...fetched, pictures }));
  }
} finally {
  await browser.close();
}
