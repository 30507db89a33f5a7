// Plays the official TypeScript packages for a test in Python: one JSON line in, one JSON line out.
//
// A line {"id": 1, "verb": "open_server", ...} is answered by {"id": 1, "value": ...} or by
// {"id": 1, "error": "..."}. Lines are worked on at once, and the process ends when its input does,
// so that it never outlives the test.
import readline from "node:readline";

import { get, openClient, refund, forget } from "./clients.mjs";
import { openFacilitator } from "./facilitator.mjs";
import { channels, collect, counts, openServer } from "./servers.mjs";

const verbs = {
  open_client: openClient,
  get,
  refund,
  forget,
  open_facilitator: openFacilitator,
  open_server: openServer,
  counts,
  channels,
  collect,
};

const show = (key, value) => (typeof value === "bigint" ? value.toString() : value);
const say = message => process.stdout.write(JSON.stringify(message, show) + "\n");

// Packages that complain do so where nobody reads JSON.
for (const name of ["log", "info", "warn", "debug"]) console[name] = (...all) => console.error(...all);

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", async line => {
  const { id, verb, ...rest } = JSON.parse(line);
  try {
    say({ id, value: (await verbs[verb](rest)) ?? null });
  } catch (error) {
    say({ id, error: String(error?.stack ?? error) });
  }
});
lines.on("close", () => process.exit(0));
say({ id: 0, value: process.version });
