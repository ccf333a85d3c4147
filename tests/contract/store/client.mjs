// Drives the official Node client against the store at argv[2]; prints one JSON document.
import { createClient } from '@clickhouse/client';

const seen = {};
for (const compression of [false, true]) {
  const client = createClient({
    url: process.argv[2],
    compression: { request: compression, response: compression },
  });
  const table = `node_${compression}_${process.pid}`;
  await client.command({ query: `CREATE TABLE ${table} (a Int32, b String) ENGINE = MergeTree ORDER BY a` });
  await client.insert({
    table,
    values: Array.from({ length: 1000 }, (_, i) => ({ a: i, b: `é${i}` })),
    format: 'JSONEachRow',
  });
  const asked = await client.query({
    query: `SELECT a, b FROM ${table} WHERE a >= {from: Int32} ORDER BY a`,
    query_params: { from: 998 },
    format: 'JSONEachRow',
  });
  const rows = await asked.json();
  let streamed = 0;
  const stream = await client.query({ query: 'SELECT number FROM numbers(200000)', format: 'JSONEachRow' });
  for await (const part of stream.stream()) streamed += part.length;
  const whole = await (await client.query({ query: `SELECT count() AS n FROM ${table}`, format: 'JSON' })).json();
  let refused = null;
  try {
    await client.query({ query: 'SELECT * FROM no_such_table' });
  } catch (error) {
    refused = [error.code, error.type];
  }
  const pong = await client.ping();
  await client.command({ query: `DROP TABLE ${table}` });
  await client.close();
  seen[`compression ${compression}`] = { rows, streamed, n: Number(whole.data[0].n), refused, pong: pong.success };
}
console.log(JSON.stringify(seen));
