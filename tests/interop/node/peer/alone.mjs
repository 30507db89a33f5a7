// One official server for the benchmark, alone in its process: /free, and /item/{name} for $0.001.
//
//   node peer/alone.mjs express|hono PORT FACILITATOR RECEIVER
import { serve } from "@hono/node-server";
import express from "express";
import { Hono } from "hono";

import { HTTPFacilitatorClient } from "@x402/core/server";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/server";
import * as xExpress from "@x402/express";
import * as xHono from "@x402/hono";

const NETWORK = "eip155:84532";
const listening = () => console.log("listening");
const [framework, port, facilitator, receiver] = process.argv.slice(2);
const make = framework === "hono" ? xHono : xExpress;
const price = { scheme: "batch-settlement", price: "$0.001", payTo: receiver, network: NETWORK };
const routes = { "GET /item/*": { accepts: price } };
const server = new make.x402ResourceServer(new HTTPFacilitatorClient({ url: facilitator })).register(
  NETWORK,
  new BatchSettlementEvmScheme(receiver),
);

if (framework === "hono") {
  const app = new Hono();
  app.use(xHono.paymentMiddleware(routes, server));
  app.get("/item/:name", context => context.json({ item: context.req.param("name") }));
  app.get("/free", context => context.json({ free: true }));
  serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(port) }, listening);
} else {
  const app = express();
  app.use(xExpress.paymentMiddleware(routes, server));
  app.get("/item/:name", (request, response) => response.json({ item: request.params.name }));
  app.get("/free", (_, response) => response.json({ free: true }));
  app.listen(Number(port), "127.0.0.1", listening);
}

process.stdin.on("end", () => process.exit(0)).resume();
