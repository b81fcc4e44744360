// Runs http-cache-tests against a cache that speaks HTTP/1.1 and says how it did.
//
//   node run.mjs --suite DIR --modules DIR --base URL --report FILE [--id TEST]
//
// The last line is JSON: for each kind of test how many passed, of how many. The report names every test
// that did not pass, with the reason. A test that depends on another passes only if that one does.
//
// amended.mjs has the tests that were published with another expectation than the RFC's, and why some are
// not to pass. A required or optimal test that fails without being named there is printed.

import { createRequire } from 'node:module'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AMENDED, NOT_PASSED, amend } from './amended.mjs'

// Tests wait up to 3 s between their requests, so they run at the same time.
const AT_ONCE = 400

const { values: options } = parseArgs({
  options: {
    suite: { type: 'string' },
    modules: { type: 'string' },
    base: { type: 'string' },
    report: { type: 'string' },
    id: { type: 'string' }
  }
})

const load = path => import(join(options.suite, path))
const fetch = createRequire(join(options.modules, 'here'))('node-fetch')
const { runTests, getResults } = await load('client/runner.mjs')
const suites = [...(await load('tests/index.mjs')).default, (await load('tests/surrogate-control.mjs')).default]

const all = new Map()
for (const suite of suites) {
  suite.tests = suite.tests.filter(test => !test.browser_only && (!options.id || test.id === options.id))
  for (const test of suite.tests) {
    if (options.id) test.dump = true
    amend(test)
    all.set(test.id, { test, suite: suite.id, kind: test.kind ?? 'required' })
  }
}

await runTests(suites, fetch, false, options.base, AT_ONCE)
const results = getResults()

// 'pass', or why it did not.
function outcome (id) {
  const { test } = all.get(id)
  const result = results[id]
  const failed = (test.depends_on ?? []).find(other => all.has(other) && outcome(other) !== 'pass')
  if (failed) return `depends on ${failed}`
  if (result === true) return 'pass'
  return result ? `${result[0]}: ${result[1]}` : 'did not run'
}

const counts = {}
const bySuite = {}
const report = []
for (const [id, { suite, kind }] of all) {
  const said = outcome(id)
  for (const count of [counts[kind] ??= { passed: 0, of: 0 }, (bySuite[suite] ??= {})[kind] ??= { passed: 0, of: 0 }]) {
    count.of += 1
    count.passed += said === 'pass'
  }
  if (said !== 'pass') report.push(`${kind}\t${suite}\t${id}\t${said}`)
}
if (options.report) writeFileSync(options.report, report.sort().reverse().join('\n') + '\n')
const shown = count => count ? `${count.passed}/${count.of}` : '-'
console.log(`${'suite'.padEnd(20)} required   optimal     check`)
for (const [suite, kinds] of [...Object.entries(bySuite), ['all', counts]]) {
  console.log(suite.padEnd(20), ['required', 'optimal', 'check'].map(kind => shown(kinds[kind]).padStart(8)).join('  '))
}
console.log(`${AMENDED.length} of them as the RFC has them, not as published`)
for (const line of report) {
  const [kind, , id, said] = line.split('\t')
  if (kind !== 'check' && !(id in NOT_PASSED)) console.log(`failed without a reason: ${id}: ${said}`)
}
console.log(JSON.stringify(counts))
